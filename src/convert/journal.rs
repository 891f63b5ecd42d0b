//! What an interrupted conversion has finished, where its sources are gone and it could not be made again.
//!
//! One line of JSON for each shard, written when the shard is on the disk and before its sources are removed. The
//! first line has the conversion's digest. It lies in the work folder, beside the content, and goes with it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::block::Figures;
use crate::digest::{Digest, Hasher};
use crate::kernels::Moments;
use crate::output::{Output, sync, sync_dir};
use crate::shard::Seal;

/// Name of the journal in the work folder.
pub(super) const JOURNAL_NAME: &str = "journal";

/// A shard that is on the disk.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) seal: Seal,
    /// Index of a tensor of the plan, and what was found of it.
    pub(super) figures: Vec<(usize, Figures)>,
}

/// The same as it is in the journal. Sums are kept as their bits: JSON has no infinities.
#[derive(Serialize, Deserialize)]
struct Line {
    shard: usize,
    len: u64,
    sha256: Digest,
    figures: Vec<(usize, [u64; 4], [u64; 4])>,
}

impl Line {
    fn of(shard: usize, finished: &Finished) -> Self {
        let figures = finished.figures.iter().map(|&(tensor, figures)| {
            let Figures { moments, clipped, overflowed, flushed, non_finite } = figures;
            let Moments { signal, coded, noise, max_error } = moments;
            let counts = [clipped, overflowed, flushed, non_finite];
            (tensor, [signal, coded, noise, max_error].map(f64::to_bits), counts)
        });
        Self { shard, len: finished.seal.len, sha256: finished.seal.sha256, figures: figures.collect() }
    }

    fn finished(self) -> Finished {
        let figures = self.figures.into_iter().map(|(tensor, moments, counts)| {
            let [signal, coded, noise, max_error] = moments.map(f64::from_bits);
            let [clipped, overflowed, flushed, non_finite] = counts;
            let moments = Moments { signal, coded, noise, max_error };
            (tensor, Figures { moments, clipped, overflowed, flushed, non_finite })
        });
        Finished { seal: Seal { len: self.len, sha256: self.sha256 }, figures: figures.collect() }
    }
}

/// Which conversion a journal is of.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Head {
    /// What the conversion is made from and how.
    pub(super) conversion: Digest,
    /// The commit of its checkpoint, where a hub named one: the branch may have moved when the conversion goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<String>,
}

/// A journal that was there.
pub(super) enum Opened {
    /// Of this conversion, or begun.
    Ours(Journal),
    /// Of another.
    Other(Head),
}

/// The journal of one conversion, open.
pub(super) struct Journal {
    file: Mutex<File>,
    dir: PathBuf,
    finished: HashMap<usize, Finished>,
    added: AtomicBool,
}

impl Journal {
    /// Opens or begins the journal of an output. `name` gives a shard's file. Shards that are not as they were written
    /// are forgotten.
    pub(super) fn open(
        output: &Output<'_>,
        head: Head,
        name: impl Fn(usize) -> Option<PathBuf>,
    ) -> io::Result<Opened> {
        let path = output.beside(JOURNAL_NAME);
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        let text = match fs::read_to_string(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let lines = match parse(&text, head.conversion) {
            Ok(lines) => lines,
            Err(other) => return Ok(Opened::Other(other)),
        };
        let mut finished = HashMap::new();
        for line in lines {
            let (shard, record) = (line.shard, line.finished());
            if name(shard).is_some_and(|path| is_sealed(&path, &record.seal)) {
                finished.insert(shard, record);
            }
        }
        // Written anew, so that it holds what counts and nothing else.
        let mut text = json_line(&head)?;
        for (shard, record) in &finished {
            text.extend(json_line(&Line::of(*shard, record))?);
        }
        let staged = output.beside("journal.new");
        fs::write(&staged, &text)?;
        sync(&File::open(&staged)?)?;
        fs::rename(&staged, &path)?;
        sync_dir(&dir)?;
        let file = Mutex::new(OpenOptions::new().append(true).open(&path)?);
        Ok(Opened::Ours(Self { file, dir, finished, added: AtomicBool::new(false) }))
    }

    /// What is known of a shard that is finished.
    pub(super) fn get(&self, shard: usize) -> Option<&Finished> {
        self.finished.get(&shard)
    }

    /// True where no shard is finished, of this run or an earlier one.
    pub(super) fn is_empty(&self) -> bool {
        self.finished.is_empty() && !self.added.load(Ordering::Relaxed)
    }

    /// The shards that were finished when the journal was opened.
    pub(super) fn shards(&self) -> impl Iterator<Item = usize> {
        self.finished.keys().copied()
    }

    /// Records a shard whose file is on the disk. When this returns, the record is too.
    pub(super) fn add(&self, shard: usize, finished: &Finished) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.added.store(true, Ordering::Relaxed);
        file.write_all(&json_line(&Line::of(shard, finished))?)?;
        sync(&file)?;
        sync_dir(&self.dir)
    }
}

/// The shards that are finished by a journal in `dir`, which is not yet checked.
pub(super) fn told(dir: &Path, conversion: Digest) -> Vec<usize> {
    let text = fs::read_to_string(dir.join(JOURNAL_NAME)).unwrap_or_default();
    let lines = parse(&text, conversion).unwrap_or_default();
    lines.into_iter().map(|line| line.shard).collect()
}

/// The lines after the head; the head where it is another's. What follows a line cut off by a crash does not count.
fn parse(text: &str, conversion: Digest) -> Result<Vec<Line>, Head> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    match lines.next().map(serde_json::from_str::<Head>) {
        Some(Ok(found)) if found.conversion == conversion => {
            Ok(lines.map_while(|line| serde_json::from_str(line).ok()).collect())
        }
        Some(Ok(other)) => Err(other),
        Some(Err(_)) => Err(Head { conversion, revision: None }),
        None => Ok(Vec::new()),
    }
}

fn json_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// True where the file has the length and the digest of its seal.
fn is_sealed(path: &Path, seal: &Seal) -> bool {
    let digest = || -> io::Result<Digest> {
        let mut hasher = Hasher::default();
        io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok(hasher.finish())
    };
    fs::metadata(path).is_ok_and(|meta| meta.len() == seal.len)
        && digest().is_ok_and(|found| found == seal.sha256)
}
