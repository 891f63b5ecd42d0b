//! A checkpoint on disk: which tensors it holds, where their bytes lie, and which files come with them.
//!
//! Owns finding, listing and reading the source. Opening reads headers only, never a weight, and everything
//! it tells has been checked against the files' real lengths; weights are then read by position, from any
//! number of threads. Leaves to others what a model is (`family`) and what becomes of a tensor (`plan`).
//! Stricter than the usual loaders: where two of them would read one file differently, it is refused.

mod ahead;
mod awaited;
mod beside;
mod blobs;
mod decoded;
mod files;
mod folder;
mod hashing;
pub mod hub;
pub mod index;
mod json;
mod limits;
pub(crate) mod needed;
mod notice;
mod reading;
pub mod safetensors;
mod shards;
mod tied;
pub mod torch;
mod wrapped;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::coding::Settings;
use crate::error::{CheckpointError, CodesError, ConvertError, Result};
use crate::kernels::Isa;
use crate::tensor::{Dtype, TensorName};
use awaited::Handle;
use beside::Sets;
use files::{Fingerprint, Found, Root};
use index::{ShardKind, TORCH_INDEX_NAME};

pub(crate) use ahead::Ahead;
pub use folder::Folder;
pub(crate) use limits::Limits;
pub(crate) use limits::TENSOR_LEN;
pub(crate) use notice::Skipped;
pub use notice::{Notice, SkipReason};
pub use reading::Span;
pub(crate) use reading::{Coded, Reading};

/// Longest `config.json` accepted, in bytes. Real ones have some thousands.
pub(crate) const MAX_CONFIG_LEN: u64 = 4 << 20;

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
    settings: Settings,
    /// Why its codes are not read.
    codes: Option<CodesError>,
    /// What codes are decoded with.
    isa: Isa,
    panels: reading::Panels,
}

/// One file of weights of a checkpoint: safetensors or torch.
#[derive(Debug)]
pub struct SourceFile {
    /// Below the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 in lower-case hexadecimal digits, where a hub cache names the file by it. Not computed here.
    pub sha256: Option<String>,
    /// The header's `__metadata__`; empty where there is none, as in torch files.
    pub metadata: BTreeMap<String, String>,
    /// Those of a torch file that tensors are views of.
    storages: Vec<torch::TorchStorage>,
    handle: Handle,
}

/// One tensor of a checkpoint: a float of the model, however it is stored, or integers as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Its name, unique in the checkpoint.
    pub name: TensorName,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, outermost first; empty for a 0-d tensor.
    pub shape: Vec<u64>,
    /// Its length in bytes: what dtype and shape need.
    pub byte_len: u64,
    /// It is a calibrated scale of the cache, which some loaders read.
    pub is_cache_scale: bool,
    /// How its elements are had.
    pub(crate) reading: Reading,
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

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`, reading headers only.
    ///
    /// The weights are those of `model.safetensors.index.json`; without one, every `*.safetensors` in the
    /// folder itself; without any, those of `pytorch_model.bin.index.json`, or `pytorch_model.bin`, or
    /// `pytorch_model*.bin` and `consolidated*.pth`, or the only torch file. Adapters, `consolidated*` beside
    /// other weights, and variants (`model.fp16.safetensors`) beside plain ones are not read. Files in folders below
    /// are side files, whatever their names.
    ///
    /// # Errors
    /// [`CheckpointError`], for anything that is missing, unsound, or read differently by different loaders.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_awaiting(dir, Ahead::within(Limits::default()))
    }

    /// The same, where files are yet to come: [`Checkpoint::arrived`] opens each file of weights. All other files of
    /// the checkpoint must be there, or be among the texts of `ahead`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_awaiting(dir: &Path, ahead: Ahead) -> Result<Self> {
        let (coming, awaited, left) = ahead.split();
        let root = Root::awaiting(dir, coming)?;
        let names = root.top_names()?;
        let sets = Sets::among(names.iter().map(String::as_str));
        let mut notices = Vec::new();
        let shards::Weights { kind, files, mut tensors } =
            shards::open(&root, (&names, &sets), (awaited, left), &mut notices)?;
        if !files.iter().any(|file| beside::is_adapter(&file.path)) {
            notices.extend(wrapped::strip(&mut tensors));
        }
        let has_config = names.iter().any(|name| name == "config.json");
        let config = if has_config { Some(read_config(&root)?) } else { None };
        notices.extend(tied::resolve(&mut tensors, config.as_deref()));
        notices.extend(path_like_names(&tensors));

        let (found, mut skipped) = root.walk()?;
        let mut side_files = Vec::new();
        let weights: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        // An index may list weights under any name.
        skipped.retain(|skipped| !weights.contains(skipped.path.as_str()));
        for found in found {
            if weights.contains(found.path.as_str()) {
                continue;
            }
            let beside = if found.path.contains('/') { None } else { sets.why_not(&found.path) };
            match beside.or_else(|| skip_reason(&found.path, kind)) {
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
        let torch = skipped_for(SkipReason::TorchWeights);
        if !torch.is_empty() {
            notices.push(Notice::BothFormats { torch });
        }
        let unlisted = skipped_for(SkipReason::UnlistedWeights);
        if !unlisted.is_empty() {
            notices.push(Notice::UnlistedWeights { files: unlisted });
        }
        let of_interest = [
            SkipReason::Adapter,
            SkipReason::Consolidated,
            SkipReason::Variant,
            SkipReason::Temporary,
            SkipReason::Unlisted,
        ];
        for reason in of_interest {
            let files = skipped_for(reason);
            if !files.is_empty() {
                notices.push(Notice::Beside { reason, files });
            }
        }
        let mut opened = Self { config, side_files, skipped, ..Self::of(root, files, tensors, notices) };
        opened.decode();
        Ok(opened)
    }

    /// Opens one file of weights by itself: no configuration, no side files. The root is its folder. Files
    /// ending in `.bin`, `.pt`, `.pth`, `.ckpt` and `.pth.tar` are torch files, all others safetensors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]. Links are followed wherever they lead, for the file was named.
    pub fn open_file(path: &Path) -> Result<Self> {
        let found = files::find_single(path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        Self::single(Root::new(folder)?, |root, notices| shards::open_single(root, found, notices))
    }

    /// The same of a file that is open, whatever its path leads to now. `path`: for its ending and for errors.
    ///
    /// # Errors
    /// As [`Checkpoint::open_file`].
    pub(crate) fn of_opened(file: File, path: &Path) -> Result<Self> {
        let found = files::found_opened(&file, path)?;
        let root = Root::unseen(path.parent().unwrap_or_else(|| Path::new(".")));
        Self::single(root, |root, notices| shards::of_opened(root, found, file, notices))
    }

    /// The one file that `open` finds below `root`.
    fn single(
        root: Root,
        open: impl FnOnce(&Root, &mut Vec<Notice>) -> Result<shards::Weights>,
    ) -> Result<Self> {
        let mut notices = Vec::new();
        let shards::Weights { files, mut tensors, .. } = open(&root, &mut notices)?;
        notices.extend(tied::resolve(&mut tensors, None));
        notices.extend(path_like_names(&tensors));
        let mut opened = Self::of(root, files, tensors, notices);
        opened.decode();
        Ok(opened)
    }

    /// Weights by themselves.
    fn of(root: Root, files: Vec<SourceFile>, tensors: Vec<SourceTensor>, notices: Vec<Notice>) -> Self {
        Self {
            root,
            config: None,
            files,
            tensors,
            side_files: Vec::new(),
            skipped: Vec::new(),
            notices,
            settings: Settings::default(),
            codes: None,
            isa: Isa::detect(),
            panels: reading::Panels::default(),
        }
    }

    /// The folder, as it was given.
    pub fn root(&self) -> &Path {
        &self.root.given
    }

    /// The text of `config.json`, if there is one; at most `MAX_CONFIG_LEN` bytes, not yet parsed.
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
    /// counts for all that is in it.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// What a person may want to know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Checks that no file has changed since the checkpoint was opened: length, modification time, and that
    /// its name still leads to it. Side files are checked as well.
    ///
    /// # Errors
    /// [`CheckpointError::FileChanged`] for the first that has.
    pub fn recheck(&self) -> Result<()> {
        for file in &self.files {
            self.recheck_weights(file)?;
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
        self.root.open(&side.path, &side.fingerprint)
    }
}

impl SideFile {
    fn new(found: Found) -> Self {
        let Found { path, len, sha256, fingerprint } = found;
        Self { path, len, sha256, fingerprint }
    }
}

/// Why a file is neither weights that are read nor a side file.
fn skip_reason(path: &str, read: ShardKind) -> Option<SkipReason> {
    let is_torch = shards::is_torch_weights(path);
    match read {
        ShardKind::Safetensors if is_torch || path == TORCH_INDEX_NAME => Some(SkipReason::TorchWeights),
        ShardKind::Safetensors if path.ends_with(".safetensors") && !path.contains('/') => {
            Some(SkipReason::UnlistedWeights)
        }
        ShardKind::Torch if is_torch => Some(SkipReason::UnlistedWeights),
        ShardKind::Safetensors | ShardKind::Torch => None,
    }
}

/// No two files may differ in case alone, for what is copied from here must fit on every system.
fn check_case(root: &Root, files: &[SourceFile], sides: &[SideFile]) -> Result<()> {
    let paths = files.iter().map(|file| &file.path).chain(sides.iter().map(|side| &side.path));
    let mut seen: HashMap<String, &String> = HashMap::new();
    for path in paths {
        if let Some(first) = seen.insert(path.to_lowercase(), path) {
            let (first, second) = (first.clone(), path.clone());
            return Err(CheckpointError::NamesClash { root: root.given.clone(), first, second }.into());
        }
    }
    Ok(())
}

fn read_config(root: &Root) -> Result<String> {
    let bytes = files::read_text(root, "config.json", MAX_CONFIG_LEN)?;
    let not_utf8 = |error: std::string::FromUtf8Error| CheckpointError::TextNotUtf8 {
        path: root.shown("config.json"),
        source: error.utf8_error(),
    };
    Ok(String::from_utf8(bytes).map_err(not_utf8)?)
}

/// The config.json of the folder `dir`, whether weights lie beside it or not; null where there is none.
///
/// # Errors
/// [`CheckpointError`] where it cannot be read, [`ConvertError::BadJson`] where it is no JSON.
pub(crate) fn config_of(dir: &Path) -> Result<Value> {
    config_text_of(dir)?.map_or(Ok(Value::Null), |text| parse_config(&text))
}

/// Its text; `None` where there is none.
pub(crate) fn config_text_of(dir: &Path) -> Result<Option<String>> {
    let root = Root::new(dir)?;
    root.find("config.json")?.map(|_| read_config(&root)).transpose()
}

pub(crate) fn parse_config(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| ConvertError::BadJson { file: "config.json".into(), why: error.to_string() }.into())
}

fn path_like_names(tensors: &[SourceTensor]) -> Option<Notice> {
    let mut odd = tensors.iter().filter(|tensor| {
        let name = tensor.name.as_str();
        name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
    });
    let first = odd.next()?.name.clone();
    Some(Notice::PathLikeNames { first, count: odd.count() + 1 })
}
