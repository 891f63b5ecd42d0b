//! Carrying out what was prepared: an output is filled, sealed and put in place.
//!
//! Owns threads and the order of writing. Carries out formats/bundle.md, "Writing".

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::journal::{self, Head, Journal, Opened};
use super::supply::{self, Present, Supply};
use super::{
    CARD_NAME, Conversion, FilePlan, Outcome, block, card, checked, io_error, pipeline, prepare, towers,
};
use crate::bundle;
use crate::checkpoint::{Checkpoint, SourceFile};
use crate::digest::Digest;
use crate::error::{ConvertError, Error, Result};
use crate::manifest::{self, FileRecord, MANIFEST_NAME, Manifest, SUMS_NAME};
use crate::names::BundlePath;
use crate::output::{self, Output, Replace, Target};
use crate::progress::{Progress, Stage, Stop};
use crate::shard::{Seal, SealedFile};
use crate::threads;

/// Bytes copied at a time.
const COPY_LEN: usize = 1 << 20;

impl Conversion {
    /// The checkpoint's files of weights that each shard reads, by number; none for shards that an interrupted
    /// [`Conversion::run_from`] to `target` finished.
    pub fn reads(&self, target: &Path) -> Vec<Vec<usize>> {
        let mut reads = supply::reads(&self.plan, &self.checkpoint);
        if let Some(dir) = Self::unfinished(target) {
            for shard in journal::told(&dir, self.identity()) {
                if let Some(files) = reads.get_mut(shard) {
                    files.clear();
                }
            }
        }
        reads
    }

    /// The folder that an interrupted [`Conversion::run_from`] left to go on with, if there is one.
    pub fn unfinished(target: &Path) -> Option<PathBuf> {
        output::unfinished(target).filter(|dir| dir.join(journal::JOURNAL_NAME).is_file())
    }

    /// Bytes in that folder; 0 where there is none.
    pub fn unfinished_len(target: &Path) -> u64 {
        Self::unfinished(target).map_or(0, |_| output::unfinished_len(target))
    }

    /// Writes the bundle to `target`. With `force` an older bundle there is replaced in the last step.
    ///
    /// # Errors
    /// [`ConvertError`] and reading errors. Whatever happens, nothing half-made is left at `target`.
    pub fn run(&self, target: &Path, force: bool, progress: &dyn Progress, stop: &Stop) -> Result<Outcome> {
        self.run_from(&Present, target, force, progress, stop)
    }

    /// The same, where `supply` brings the files of weights. If it removes them on the way, what is finished stays
    /// beside the target after an interruption, and the next run goes on from there.
    ///
    /// # Errors
    /// As [`Conversion::run`], and the supply's.
    pub fn run_from(
        &self,
        supply: &dyn Supply,
        target: &Path,
        force: bool,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Outcome> {
        let _attended = stop.attend();
        let inputs: Vec<&Path> = std::iter::once(self.checkpoint.root())
            .chain(self.towers.iter().map(|tower| tower.located.dir.as_path()))
            .collect();
        let replace = if force { Replace::If(&bundle::may_replace) } else { Replace::Never };
        let len = self.bundle_len + (self.bundle_len / 100);
        let to = Target { path: target, inputs: &inputs, replace, len };
        let pool = threads::pool(self.options.threads)
            .map_err(|cause| io_error("starting threads", Path::new(""), cause))?;
        let folder = prepare::folder_name(target).unwrap_or_else(|| self.name.to_string());
        let (output, (manifest, id)) = if supply.removes() {
            let mut output = Output::resume(to, progress)?;
            let journal = self.resume(&output)?;
            let filled =
                self.fill((&output.content(), &folder), supply, Some(&journal), &pool, progress, stop);
            if filled.is_err() && journal.is_empty() {
                output.give_up();
            }
            (output, filled?)
        } else {
            let output = Output::begin(to, progress)?;
            let content = output.content();
            std::fs::create_dir(&content).map_err(|cause| io_error("making a folder", &content, cause))?;
            let filled = self.fill((&content, &folder), supply, None, &pool, progress, stop)?;
            (output, filled)
        };
        let placed = output.commit()?;
        progress.finish();
        if let Some(notice) = placed.notice() {
            progress.note(&notice);
        }
        Ok(Outcome { path: target.to_owned(), id, manifest })
    }

    /// What an earlier run of the same conversion finished; all else in the folder is removed.
    fn resume(&self, output: &Output<'_>) -> Result<Journal> {
        let content = output.content();
        let name = |shard: usize| self.plan.shards.get(shard).map(|shard| shard.name.as_str());
        let path = |shard: usize| name(shard).map(|name| content.join(name));
        let ours = Head { conversion: self.identity(), revision: self.located.revision.clone() };
        let opened = Journal::open(output, ours, path)
            .map_err(|cause| io_error("opening the journal", &content, cause))?;
        let journal = match opened {
            Opened::Ours(journal) => journal,
            Opened::Other(Head { revision, .. }) => {
                let revision = revision.filter(|commit| self.located.revision.as_ref() != Some(commit));
                return Err(ConvertError::OtherUnfinished { path: content, revision }.into());
            }
        };
        let kept: Vec<&str> = journal.shards().filter_map(name).collect();
        clear_all_but(&content, &kept)
            .map_err(|cause| io_error("clearing the work folder", &content, cause))?;
        Ok(journal)
    }

    /// The digest of all that decides the shards' bytes: this program's version, the sources, the plan, the rules.
    fn identity(&self) -> Digest {
        let files = self.checkpoint.files().iter().map(|file| (&file.path, file.len, &file.sha256));
        let files: Vec<_> = files.collect();
        let rules = (self.options.on_overflow, self.options.stats);
        Digest::of(format!("{} {files:?} {rules:?} {:?}", env!("CARGO_PKG_VERSION"), self.plan).as_bytes())
    }

    /// Writes every file of the bundle into `dir` and returns its manifest and its id. `folder`: the name that it gets.
    fn fill(
        &self,
        (dir, folder): (&Path, &str),
        supply: &dyn Supply,
        journal: Option<&Journal>,
        pool: &rayon::ThreadPool,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<(Manifest, Digest)> {
        let digests = self.source_digests(pool, progress, stop)?;
        progress.begin(Stage::Tensors, self.plan.totals().bytes);
        let rules = block::Rules {
            isa: self.options.isa,
            on_overflow: self.options.on_overflow,
            stats: self.options.stats,
        };
        let pipeline = pipeline::Pipeline {
            checkpoint: &self.checkpoint,
            plan: &self.plan,
            rules,
            resources: self.resources,
            supply,
            journal,
            progress,
            stop,
        };
        let written = pipeline.run(pool, dir)?;

        let copies: Vec<(&FilePlan, &BundlePath)> =
            self.files.iter().filter_map(|file| Some((file, file.fate.target()?))).collect();
        let rewrites = || self.towers.iter().filter_map(|tower| Some((tower, tower.rewrite.as_ref()?)));
        let rewritten_len: u64 = rewrites().map(|(_, rewrite)| rewrite.data_len).sum();
        progress.begin(Stage::Files, copies.iter().map(|(file, _)| file.len).sum::<u64>() + rewritten_len);
        let copied: Vec<FileRecord> = pool.install(|| {
            copies
                .par_iter()
                .map(|(file, target)| self.copy(file, (dir, target), progress, stop))
                .collect::<Result<_>>()
        })?;
        let mut files: Vec<FileRecord> = copied.clone();
        for (tower, rewrite) in rewrites() {
            let folder = dir.join(&tower.facts.path);
            std::fs::create_dir_all(&folder).map_err(|cause| io_error("making a folder", &folder, cause))?;
            let rules = towers::rules(&self.options);
            files.push(rewrite.write(&folder, tower.new_path(rewrite), rules, pool, (progress, stop))?);
        }
        for (shard, seal) in self.plan.shards.iter().zip(&written.seals) {
            files.push(FileRecord { path: checked(&shard.name)?, size: seal.len, sha256: seal.sha256 });
        }
        for (path, text) in &self.texts {
            // The card names the folder, and only now is known which it is.
            let card = (path == CARD_NAME).then(|| card::model_card(self, folder).into_bytes());
            files.push(write_text(dir, path, card.as_ref().unwrap_or(text))?);
        }
        self.recheck()?;

        files.sort_by(|a, b| a.path.cmp(&b.path));
        let sums = write_text(dir, SUMS_NAME, manifest::sums(&files).as_bytes())?;
        files.push(sums);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let json = |error: serde_json::Error| io_error("writing the manifest", dir, error.into());
        let manifest = self.manifest(&written, (&copied, &digests), files)?.sealed().map_err(json)?;
        let bytes = manifest.to_bytes().map_err(json)?;
        write_text(dir, MANIFEST_NAME, &bytes)?;
        check_readable(&dir.join(MANIFEST_NAME))?;
        if stop.requested() {
            return Err(Error::Interrupted { kept: false });
        }
        Ok((manifest, Digest::of(&bytes)))
    }

    /// Copies a file of the checkpoint or of a tower to its path below `dir`.
    fn copy(
        &self,
        file: &FilePlan,
        (dir, target): (&Path, &BundlePath),
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<FileRecord> {
        let mut source = match file.tower {
            Some(tower) => self.towers[tower].folder.open_file(&file.path)?,
            None => self.checkpoint.open_side_file(&file.path)?,
        };
        let path = dir.join(target);
        let failed = |cause| io_error("copying a file", &path, cause);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut out = SealedFile::create(&path, file.len).map_err(failed)?;
        let mut buffer = vec![0; COPY_LEN.min(file.len as usize + 1)];
        loop {
            if stop.requested() {
                return Err(Error::Interrupted { kept: false });
            }
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => return Err(failed(cause)),
            };
            out.write_all(&buffer[..read]).map_err(failed)?;
            progress.advance(read as u64);
        }
        let Seal { len, sha256 } = out.finish().map_err(failed)?;
        let root = match file.tower {
            Some(tower) => self.towers[tower].located.dir.as_path(),
            None => self.checkpoint.root(),
        };
        hold_to_name(&root.join(&file.path), file.claimed, sha256)?;
        Ok(FileRecord { path: target.clone(), size: len, sha256 })
    }

    /// The digests of the files of weights, by their paths as the manifest has them; none unless they were asked for.
    fn source_digests(
        &self,
        pool: &rayon::ThreadPool,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<BTreeMap<String, Digest>> {
        if !self.hashes_sources {
            return Ok(BTreeMap::new());
        }
        let of_towers = self.towers.iter().filter_map(|tower| {
            Some((&tower.rewrite.as_ref()?.weights, format!("tower:{}/", tower.facts.path)))
        });
        let checkpoints = std::iter::once((&self.checkpoint, String::new())).chain(of_towers);
        let files: Vec<_> = checkpoints
            .flat_map(|(checkpoint, prefix)| {
                let files = checkpoint.files().iter().enumerate();
                files.map(move |(number, file)| (checkpoint, number, file, format!("{prefix}{}", file.path)))
            })
            .collect();
        progress
            .begin(Stage::Sources, files.iter().map(|(_, _, file, _)| file.len).fold(0, u64::saturating_add));
        let hash = |(checkpoint, number, file, path): (&Checkpoint, usize, &SourceFile, String)| {
            let found = checkpoint.digest_of(number, progress, stop)?;
            let claimed = file.sha256.as_deref().and_then(Digest::from_hex);
            hold_to_name(&checkpoint.root().join(&file.path), claimed, found)?;
            Ok((path, found))
        };
        pool.install(|| files.into_par_iter().map(hash).collect())
    }

    /// The source must be what it was: a file that changed while it was read gives a bundle of no checkpoint.
    fn recheck(&self) -> Result<()> {
        self.checkpoint.recheck()?;
        self.towers.iter().try_for_each(|tower| {
            tower.rewrite.as_ref().map_or(Ok(()), |rewrite| rewrite.weights.recheck())?;
            tower.folder.recheck()
        })
    }
}

/// Makes the folder, or removes everything in it but the files of these names.
fn clear_all_but(dir: &Path, names: &[&str]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if names.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads the manifest back as `verify` does. A bundle that no reader takes is not put in place.
fn check_readable(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|cause| io_error("reading the manifest back", path, cause))?;
    let broken = match Manifest::from_bytes(&bytes) {
        Ok(manifest) => {
            let broken = manifest.contradictions().into_iter().next();
            broken.map(|broken| format!("expected {}, found {}", broken.expected, broken.found))
        }
        Err(fault) => Some(fault.to_string()),
    };
    match broken {
        None => Ok(()),
        Some(why) => Err(ConvertError::BadManifest { path: path.to_owned(), why }.into()),
    }
}

/// A hub's cache names a file by its digest: where that is another, the file is damaged.
fn hold_to_name(path: &Path, claimed: Option<Digest>, found: Digest) -> Result<()> {
    match claimed.filter(|claimed| *claimed != found) {
        None => Ok(()),
        Some(named) => Err(ConvertError::DamagedCache { path: path.to_owned(), named, found }.into()),
    }
}

fn write_text(dir: &Path, path: &str, text: &[u8]) -> Result<FileRecord> {
    let full = dir.join(path);
    let failed = |cause| io_error("writing a file", &full, cause);
    let mut file = SealedFile::create(&full, 0).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    let Seal { len, sha256 } = file.finish().map_err(failed)?;
    Ok(FileRecord { path: checked(path)?, size: len, sha256 })
}
