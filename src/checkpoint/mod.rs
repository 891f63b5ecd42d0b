//! A checkpoint on disk: which tensors it holds, where their bytes lie, and which files come with them.
//!
//! Owns finding, listing and reading the source. Opening reads headers only, never a weight, and everything
//! it tells has been checked against the files' real lengths; weights are then read by position, from any
//! number of threads. Leaves to others what a model is (`family`) and what becomes of a tensor (`plan`).
//! Stricter than the usual loaders: where two of them would read one file differently, it is refused.

mod files;
mod folder;
pub mod hub;
pub mod index;
mod json;
pub mod safetensors;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::error::{CheckpointError, ConvertError, NodeKind, Result};
use crate::tensor::{Dtype, TensorName};
use files::{Fingerprint, Found, Root};
use index::{INDEX_NAME, Index, IndexEntry, TotalSize};
use safetensors::ReadFault;

pub use files::{MAX_DEPTH, MAX_FILES};
pub use folder::Folder;

/// Longest `config.json` accepted, in bytes. Real ones have some thousands.
pub const MAX_CONFIG_LEN: u64 = 16 << 20;

/// Name of the one file of weights that loaders prefer to an index.
const SINGLE_NAME: &str = "model.safetensors";

/// One checkpoint on disk: its metadata, and the weights' files held open.
#[derive(Debug)]
pub struct Checkpoint {
    root: Root,
    config: Option<String>,
    files: Vec<SourceFile>,
    tensors: Vec<SourceTensor>,
    side_files: Vec<SideFile>,
    skipped: Vec<Skipped>,
    notices: Vec<Notice>,
}

/// One safetensors file of a checkpoint, open.
#[derive(Debug)]
pub struct SourceFile {
    /// Below the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 in lower-case hexadecimal digits, where a hub cache names the file by it. Not computed here.
    pub sha256: Option<String>,
    /// The header's `__metadata__`; empty where there is none.
    pub metadata: BTreeMap<String, String>,
    file: File,
    fingerprint: Fingerprint,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Its name, unique in the checkpoint.
    pub name: TensorName,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, outermost first; empty for a 0-d tensor. Row-major, contiguous.
    pub shape: Vec<u64>,
    /// The file it is in: a place in [`Checkpoint::files`].
    pub file: usize,
    /// Its first byte, from the start of that file; no alignment is promised.
    pub offset: u64,
    /// Its length in bytes: what dtype and shape need, all of it inside the file.
    pub byte_len: u64,
}

/// A regular file that is not one of the weights' files: configuration, tokenizer, a tower's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideFile {
    /// Below the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 in lower-case hexadecimal digits, where a hub cache names the file by it. Not computed here.
    pub sha256: Option<String>,
    fingerprint: Fingerprint,
}

/// A file or folder that is no part of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Below the root, with `/`.
    pub path: String,
    /// Why it was passed over.
    pub reason: SkipReason,
}

/// Why a file or folder is no part of the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The history of a git repository.
    GitFolder,
    /// What download tools keep beside the files.
    CacheFolder,
    /// A hidden lock of some tool.
    LockFile,
    /// A link to a folder: only links to files are followed.
    FolderLink,
    /// A pipe, socket or device.
    NotRegular(NodeKind),
    /// The same weights as pickles, beside the safetensors files that are read.
    PickleWeights,
    /// A safetensors file in the root that the index does not list.
    UnlistedWeights,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GitFolder => f.write_str("the history of a git repository"),
            Self::CacheFolder => f.write_str("a download tool's own folder"),
            Self::LockFile => f.write_str("a lock"),
            Self::FolderLink => f.write_str("a link to a folder"),
            Self::NotRegular(kind) => kind.fmt(f),
            Self::PickleWeights => f.write_str("pickle weights; the safetensors weights are read"),
            Self::UnlistedWeights => f.write_str("weights that the index does not list"),
        }
    }
}

/// Something a person may want to know about a checkpoint that is sound nonetheless.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// The index has no `metadata.total_size`.
    TotalSizeAbsent {
        /// Bytes of all tensors.
        actual: u64,
    },
    /// The index's `metadata.total_size` is wrong.
    TotalSizeDiffers {
        /// What it says; `None` where that is no number of bytes.
        listed: Option<u64>,
        /// Bytes of all tensors.
        actual: u64,
    },
    /// There are pickle weights too; they are not read.
    BothFormats {
        /// The pickle files, sorted.
        pickle: Vec<String>,
    },
    /// Several shards and no index: all of them were read.
    NoIndex {
        /// The shards, sorted.
        shards: Vec<String>,
    },
    /// Safetensors files in the root that the index does not list; they are not read.
    UnlistedWeights {
        /// The files, sorted.
        files: Vec<String>,
    },
    /// Tensor names that look like paths. They are never used as paths.
    PathLikeNames {
        /// The first of them.
        first: TensorName,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TotalSizeAbsent { actual } => {
                write!(f, "the index tells no total size; the tensors have {actual} bytes")
            }
            Self::TotalSizeDiffers { listed: Some(listed), actual } => {
                write!(f, "the index tells a total size of {listed} bytes; the tensors have {actual}")
            }
            Self::TotalSizeDiffers { listed: None, actual } => {
                write!(f, "the index's total size is not a number of bytes; the tensors have {actual}")
            }
            Self::BothFormats { pickle } => write!(
                f,
                "the checkpoint has both safetensors and pickle weights; the safetensors are read, {} not",
                list(pickle)
            ),
            Self::NoIndex { shards } => {
                write!(f, "the checkpoint has no index; all {} shards are read", shards.len())
            }
            Self::UnlistedWeights { files } => {
                write!(f, "the index does not list {}; not read", list(files))
            }
            Self::PathLikeNames { first, count } => {
                write!(f, "{count} tensor names look like paths, the first is `{first}`; they are only names")
            }
        }
    }
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`, reading headers only.
    ///
    /// The weights are those of `model.safetensors.index.json`; without one, every `*.safetensors` in the
    /// folder itself. Files in folders below are side files, whatever their names.
    ///
    /// # Errors
    /// [`CheckpointError`], for anything that is missing, unsound, or read differently by different loaders.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = Root::new(dir)?;
        let names = root.top_names()?;
        let has = |name: &str| names.iter().any(|other| other == name);
        let loose: Vec<String> =
            names.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect();
        let pickle: Vec<String> = names.iter().filter(|name| is_pickle_weights(name)).cloned().collect();

        let mut notices = Vec::new();
        let (files, tensors) = if has(INDEX_NAME) {
            let index = read_index(&root)?;
            open_indexed(&root, &index, &loose, &mut notices)?
        } else if loose.is_empty() {
            return Err(no_weights(dir, &names, pickle).into());
        } else {
            let (files, headers) = open_shards(&root, &loose, |_| None)?;
            let tensors = merge(&root, &files, headers)?;
            if loose.len() > 1 {
                notices.push(Notice::NoIndex { shards: loose });
            }
            (files, tensors)
        };
        notices.extend(path_like_names(&tensors));

        let config = if has("config.json") { Some(read_config(&root)?) } else { None };
        let (found, mut skipped) = root.walk()?;
        let mut side_files = Vec::new();
        for found in found {
            if files.iter().any(|file| file.path == found.path) {
                continue;
            }
            let reason = if is_pickle_weights(&found.path) || found.path == "pytorch_model.bin.index.json" {
                Some(SkipReason::PickleWeights)
            } else if found.path.ends_with(".safetensors") && !found.path.contains('/') {
                Some(SkipReason::UnlistedWeights)
            } else {
                None
            };
            match reason {
                Some(reason) => skipped.push(Skipped { path: found.path, reason }),
                None => side_files.push(SideFile::new(found)),
            }
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        check_case(&root, &files, &side_files)?;
        let skipped_for = |reason| {
            let chosen = skipped.iter().filter(|skipped| skipped.reason == reason);
            chosen.map(|skipped| skipped.path.clone()).collect::<Vec<_>>()
        };
        let pickle = skipped_for(SkipReason::PickleWeights);
        if !pickle.is_empty() {
            notices.push(Notice::BothFormats { pickle });
        }
        let unlisted = skipped_for(SkipReason::UnlistedWeights);
        if !unlisted.is_empty() {
            notices.push(Notice::UnlistedWeights { files: unlisted });
        }
        Ok(Self { root, config, files, tensors, side_files, skipped, notices })
    }

    /// Opens one safetensors file by itself: no configuration, no side files. The root is its folder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]. Links are followed wherever they lead, for the file was named.
    pub fn open_file(path: &Path) -> Result<Self> {
        let found = files::find_single(path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let root = Root::new(folder)?;
        let (file, header) = open_shard(&root, found)?;
        let files = vec![file];
        let tensors = merge(&root, &files, vec![header])?;
        let notices = path_like_names(&tensors).into_iter().collect();
        Ok(Self { root, config: None, files, tensors, side_files: Vec::new(), skipped: Vec::new(), notices })
    }

    /// The folder, as it was given.
    pub fn root(&self) -> &Path {
        &self.root.given
    }

    /// The text of `config.json`, if there is one; at most [`MAX_CONFIG_LEN`] bytes, not yet parsed.
    pub fn config(&self) -> Option<&str> {
        self.config.as_deref()
    }

    /// The same, parsed; null where there is none.
    ///
    /// # Errors
    /// [`ConvertError::BadJson`].
    pub fn config_json(&self) -> Result<Value> {
        self.config.as_deref().map_or(Ok(Value::Null), parse_config)
    }

    /// The files of weights, sorted by path.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&SourceTensor> {
        let place = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(place)
    }

    /// Every other regular file below the root, sorted by path: `config.json` and the index among them.
    pub fn side_files(&self) -> &[SideFile] {
        &self.side_files
    }

    /// What lies below the root and is no part of the checkpoint, sorted by path. A folder passed over
    /// stands for all that is in it.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// What a person may want to know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Fills `buf` with the bytes of file number `file` from byte `offset` on. Any number of threads may.
    ///
    /// # Errors
    /// [`CheckpointError::ReadPastEnd`] where the file ends before `buf` is full: it was shortened since, or
    /// the range was never in it. [`CheckpointError::UnknownFile`] for a number that [`Self::files`] has not.
    pub fn read_exact_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(source) = self.files.get(file) else {
            return Err(CheckpointError::UnknownFile { file, count: self.files.len() }.into());
        };
        source.file.read_exact_at(buf, offset).map_err(|error| {
            let path = self.root.shown(&source.path);
            if error.kind() == io::ErrorKind::UnexpectedEof {
                CheckpointError::ReadPastEnd { path, offset, byte_len: buf.len() as u64 }.into()
            } else {
                CheckpointError::io(path, "read", error).into()
            }
        })
    }

    /// Fills `buf` with elements of a tensor of this checkpoint, row-major and little-endian, from its element
    /// number `first` on. Any number of threads may.
    ///
    /// # Errors
    /// As [`Self::read_exact_at`].
    pub fn read(&self, tensor: &SourceTensor, first: u64, buf: &mut [u8]) -> Result<()> {
        let start = first.saturating_mul(crate::tensor::element_len(tensor.dtype).unwrap_or(1));
        self.read_exact_at(tensor.file, tensor.offset.saturating_add(start), buf)
    }

    /// Checks that no file has changed since the checkpoint was opened: length, modification time, and that
    /// its name still leads to it. Side files are checked as well.
    ///
    /// # Errors
    /// [`CheckpointError::FileChanged`] for the first that has.
    pub fn recheck(&self) -> Result<()> {
        for file in &self.files {
            files::recheck_open(&file.file, &self.root.shown(&file.path), &file.fingerprint)?;
            self.root.recheck(&file.path, &file.fingerprint)?;
        }
        for file in &self.side_files {
            self.root.recheck(&file.path, &file.fingerprint)?;
        }
        Ok(())
    }

    /// Opens a side file for reading. `path` is one of [`Self::side_files`], which are regular files inside
    /// the root (or in the blobs of its hub cache); nothing else can be opened.
    ///
    /// # Errors
    /// [`CheckpointError::NotASideFile`] for any other path; [`CheckpointError::FileChanged`] where the file
    /// is not the one listed any more.
    pub fn open_side_file(&self, path: &str) -> Result<File> {
        let place = self.side_files.binary_search_by(|file| file.path.as_str().cmp(path));
        let Some(side) = place.ok().and_then(|place| self.side_files.get(place)) else {
            let (path, root) = (path.to_owned(), self.root.given.clone());
            return Err(CheckpointError::NotASideFile { path, root }.into());
        };
        Ok(self.root.open(&side.path, &side.fingerprint)?)
    }
}

impl SideFile {
    fn new(found: Found) -> Self {
        let Found { path, len, sha256, fingerprint } = found;
        Self { path, len, sha256, fingerprint }
    }
}

/// The headers of the shards, in the order of the files.
type Headers = Vec<safetensors::Header>;

/// Reads the index and the shards it names, and holds them against each other.
fn open_indexed(
    root: &Root,
    index: &Index,
    loose: &[String],
    notices: &mut Vec<Notice>,
) -> Result<(Vec<SourceFile>, Vec<SourceTensor>), CheckpointError> {
    let index_path = root.shown(INDEX_NAME);
    let shards: Vec<String> = index.shards().into_iter().map(str::to_owned).collect();
    if loose.iter().any(|name| name == SINGLE_NAME) && !shards.iter().any(|shard| shard == SINGLE_NAME) {
        return Err(CheckpointError::TwoSetsOfWeights { index: index_path, file: SINGLE_NAME.to_owned() });
    }
    let (files, headers) = open_shards(root, &shards, |shard| {
        let tensor = index.entries.iter().find(|entry| entry.shard == shard)?.name.to_string();
        Some(CheckpointError::MissingShard { index: root.shown(INDEX_NAME), shard: shard.to_owned(), tensor })
    })?;
    let tensors = merge(root, &files, headers)?;
    check_index(root, &index.entries, &files, &tensors)?;

    // Sums of checked ranges, none longer than its file: this cannot overflow in practice.
    let actual = tensors.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.byte_len));
    match index.total_size {
        TotalSize::Bytes(listed) if listed == actual => {}
        TotalSize::Bytes(listed) => {
            notices.push(Notice::TotalSizeDiffers { listed: Some(listed), actual });
        }
        TotalSize::NotANumber => notices.push(Notice::TotalSizeDiffers { listed: None, actual }),
        TotalSize::Absent => notices.push(Notice::TotalSizeAbsent { actual }),
    }
    Ok((files, tensors))
}

/// The index must list exactly the tensors that the shards hold, each in its shard.
fn check_index(
    root: &Root,
    entries: &[IndexEntry],
    files: &[SourceFile],
    tensors: &[SourceTensor],
) -> Result<(), CheckpointError> {
    let held: HashMap<&str, &str> = tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.as_str(), files.get(tensor.file)?.path.as_str())))
        .collect();
    for entry in entries {
        let found = held.get(entry.name.as_str()).copied();
        if found != Some(entry.shard.as_str()) {
            return Err(CheckpointError::TensorNotInShard {
                index: root.shown(INDEX_NAME),
                tensor: entry.name.to_string(),
                shard: root.shown(&entry.shard),
                found_in: found.map(str::to_owned),
            });
        }
    }
    // Both are sorted by name without doubles, and every entry is held: the first difference is unlisted.
    let mut listed = entries.iter().map(|entry| entry.name.as_str()).peekable();
    for tensor in tensors {
        if listed.next_if_eq(&tensor.name.as_str()).is_none() {
            let shard = files.get(tensor.file).map_or("", |file| file.path.as_str());
            return Err(CheckpointError::TensorNotInIndex {
                index: root.shown(INDEX_NAME),
                tensor: tensor.name.to_string(),
                shard: root.shown(shard),
            });
        }
    }
    Ok(())
}

/// Opens shards in the order given. `missing` makes the error for one that is not there.
fn open_shards(
    root: &Root,
    shards: &[String],
    missing: impl Fn(&str) -> Option<CheckpointError>,
) -> Result<(Vec<SourceFile>, Headers), CheckpointError> {
    let (mut files, mut headers) = (Vec::new(), Vec::new());
    for shard in shards {
        let Some(found) = root.find(shard)? else {
            return Err(missing(shard).unwrap_or_else(|| {
                CheckpointError::io(root.shown(shard), "open", io::ErrorKind::NotFound.into())
            }));
        };
        let (file, header) = open_shard(root, found)?;
        files.push(file);
        headers.push(header);
    }
    Ok((files, headers))
}

fn open_shard(root: &Root, found: Found) -> Result<(SourceFile, safetensors::Header), CheckpointError> {
    let Found { path, len, sha256, fingerprint } = found;
    let shown = root.shown(&path);
    let file = root.open(&path, &fingerprint)?;
    let mut header = safetensors::read_header(&file, len).map_err(|fault| match fault {
        ReadFault::Header(fault) => CheckpointError::header(&shown, fault),
        ReadFault::Io(source) => CheckpointError::io(&shown, "read", source),
    })?;
    let metadata = std::mem::take(&mut header.metadata);
    Ok((SourceFile { path, len, sha256, metadata, file, fingerprint }, header))
}

/// All shards' tensors in one list, sorted by name; refuses a name that two shards hold.
fn merge(root: &Root, files: &[SourceFile], headers: Headers) -> Result<Vec<SourceTensor>, CheckpointError> {
    let mut tensors = Vec::with_capacity(headers.iter().map(|header| header.tensors.len()).sum());
    for (file, header) in headers.into_iter().enumerate() {
        let data_start = header.data_start;
        tensors.extend(header.tensors.into_iter().map(|tensor| SourceTensor {
            name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            file,
            // Checked: start <= end <= the file's data, which begins at data_start.
            offset: data_start + tensor.start,
            byte_len: tensor.end - tensor.start,
        }));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            let path = |file: usize| files.get(file).map_or_else(String::new, |file| file.path.clone());
            return Err(CheckpointError::TensorInTwoShards {
                root: root.given.clone(),
                tensor: a.name.to_string(),
                first: path(a.file),
                second: path(b.file),
            });
        }
    }
    Ok(tensors)
}

/// No two files may differ in case alone, for what is copied from here must fit on every system.
fn check_case(root: &Root, files: &[SourceFile], sides: &[SideFile]) -> Result<(), CheckpointError> {
    let paths = files.iter().map(|file| &file.path).chain(sides.iter().map(|side| &side.path));
    let mut seen: HashMap<String, &String> = HashMap::new();
    for path in paths {
        if let Some(first) = seen.insert(path.to_lowercase(), path) {
            let (first, second) = (first.clone(), path.clone());
            return Err(CheckpointError::NamesClash { root: root.given.clone(), first, second });
        }
    }
    Ok(())
}

fn read_index(root: &Root) -> Result<Index, CheckpointError> {
    let text = read_text(root, INDEX_NAME, index::MAX_INDEX_LEN)?;
    index::parse(&text).map_err(|fault| CheckpointError::index(root.shown(INDEX_NAME), fault))
}

fn read_config(root: &Root) -> Result<String, CheckpointError> {
    let bytes = read_text(root, "config.json", MAX_CONFIG_LEN)?;
    String::from_utf8(bytes).map_err(|error| CheckpointError::TextNotUtf8 {
        path: root.shown("config.json"),
        source: error.utf8_error(),
    })
}

/// The config.json of the folder `dir`, whether weights lie beside it or not; null where there is none.
///
/// # Errors
/// [`CheckpointError`] where it cannot be read, [`ConvertError::BadJson`] where it is no JSON.
pub fn config_of(dir: &Path) -> Result<Value> {
    let root = Root::new(dir)?;
    match root.find("config.json")? {
        Some(_) => parse_config(&read_config(&root)?),
        None => Ok(Value::Null),
    }
}

fn parse_config(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| ConvertError::BadJson { file: "config.json".into(), why: error.to_string() }.into())
}

fn read_text(root: &Root, name: &str, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let shown = root.shown(name);
    let found = root
        .find(name)?
        .ok_or_else(|| CheckpointError::io(shown.as_path(), "open", io::ErrorKind::NotFound.into()))?;
    files::read_small(&root.open(&found.path, &found.fingerprint)?, &shown, limit)
}

fn no_weights(dir: &Path, names: &[String], pickle: Vec<String>) -> CheckpointError {
    let path = dir.to_owned();
    let loose: Vec<String> = names.iter().filter(|name| is_any_pickle(name)).cloned().collect();
    if !pickle.is_empty() {
        CheckpointError::OnlyPickle { path, files: pickle }
    } else if !loose.is_empty() {
        CheckpointError::OnlyPickle { path, files: loose }
    } else if names.iter().any(|name| name == "config.json") {
        CheckpointError::NoWeights { path }
    } else {
        CheckpointError::NotACheckpoint { path }
    }
}

/// The names under which a model's own weights are pickled: `pytorch_model*.bin`, `consolidated*.pth`, and
/// open_clip's. Other pickles in the folder (`mm_projector.bin`) are side files.
fn is_pickle_weights(name: &str) -> bool {
    let of = |start: &str, end: &str| name.starts_with(start) && name.ends_with(end);
    of("pytorch_model", ".bin") || of("open_clip_pytorch_model", ".bin") || of("consolidated", ".pth")
}

/// Anything that may hold weights as a pickle, but for what a trainer leaves behind.
fn is_any_pickle(name: &str) -> bool {
    let left_behind = ["training_args", "optimizer", "scheduler", "rng_state"];
    [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end))
        && !left_behind.iter().any(|start| name.starts_with(start))
}

fn path_like_names(tensors: &[SourceTensor]) -> Option<Notice> {
    let mut odd = tensors.iter().filter(|tensor| {
        let name = tensor.name.as_str();
        name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
    });
    let first = odd.next()?.name.clone();
    Some(Notice::PathLikeNames { first, count: odd.count() + 1 })
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
