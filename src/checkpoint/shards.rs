//! The files of weights: which of a folder's files they are, opened and held against their index.
//!
//! Safetensors files are preferred to torch files where a folder has both. Torch files are read as `torch` says;
//! from here on both kinds are the same.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::awaited::{Awaited, Handle, Held};
use super::beside::Sets;
use super::files::{self, Found, Root};
use super::index::{self, INDEX_NAME, Index, IndexEntry, ShardKind, TORCH_INDEX_NAME, TotalSize};
use super::limits::{Left, Limits};
use super::safetensors;
use super::torch;
use super::{Notice, Reading, SourceFile, SourceTensor, Span};
use crate::error::{CheckpointError, Disguise, Error, IndexFault, IoError, Result};

/// Name of the one file of weights that loaders prefer to an index.
const SINGLE_NAME: &str = "model.safetensors";

/// The same for torch files.
const TORCH_SINGLE_NAME: &str = "pytorch_model.bin";

/// Bytes at a file's start that show of what kind it is.
const SNIFF_LEN: u64 = 512;

/// The weights of a folder.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) kind: ShardKind,
    /// Sorted by path.
    pub(super) files: Vec<SourceFile>,
    /// Sorted by name.
    pub(super) tensors: Vec<SourceTensor>,
}

/// Finds and opens the weights of the folder, whose entries are `names`.
pub(super) fn open(
    root: &Root,
    (names, sets): (&[String], &Sets),
    awaited: (Vec<Awaited>, Left),
    notices: &mut Vec<Notice>,
) -> Result<Weights> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let safetensors: Vec<String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors") && sets.why_not(name).is_none())
        .cloned()
        .collect();
    let (kind, index_name, single_name, loose) = if has(INDEX_NAME) || !safetensors.is_empty() {
        (ShardKind::Safetensors, INDEX_NAME, SINGLE_NAME, safetensors)
    } else {
        (ShardKind::Torch, TORCH_INDEX_NAME, TORCH_SINGLE_NAME, torch_files(&root.given, names, sets)?)
    };
    let (files, tensors) = if has(index_name) {
        let index = read_index(root, index_name, kind, awaited.1.limits())?;
        let listed_single = index.entries.iter().any(|entry| entry.shard == single_name);
        if has(single_name) && !listed_single {
            return Err(CheckpointError::TwoSetsOfWeights {
                index: root.shown(index_name),
                file: single_name.to_owned(),
            }
            .into());
        }
        open_indexed(root, (index_name, kind), &index, awaited, notices)?
    } else {
        if loose.is_empty() {
            return Err(no_weights(root, names).into());
        }
        let opened = open_shards(root, kind, &loose, awaited, notices, |_| None)?;
        if loose.len() > 1 {
            notices.push(Notice::NoIndex { shards: loose });
        }
        opened
    };
    Ok(Weights { kind, files, tensors })
}

/// Opens one file by its ending.
pub(super) fn open_single(root: &Root, found: Found, notices: &mut Vec<Notice>) -> Result<Weights> {
    let file = root.open(&found.path, &found.fingerprint)?;
    of_opened(root, found, file, notices)
}

/// The same of a file that is open.
pub(super) fn of_opened(root: &Root, found: Found, file: File, notices: &mut Vec<Notice>) -> Result<Weights> {
    let kind = if is_torch_file(&found.path) { ShardKind::Torch } else { ShardKind::Safetensors };
    let shard = read_shard(root, kind, (found, file), &mut Left::of(Limits::default()), notices)?;
    let (files, tensors) = merge(root, vec![shard])?;
    Ok(Weights { kind, files, tensors })
}

/// Reads the index and the shards it names, and holds them against each other.
fn open_indexed(
    root: &Root,
    (index_name, kind): (&str, ShardKind),
    index: &Index,
    awaited: (Vec<Awaited>, Left),
    notices: &mut Vec<Notice>,
) -> Result<(Vec<SourceFile>, Vec<SourceTensor>)> {
    let shards: Vec<String> = index.shards().into_iter().map(str::to_owned).collect();
    let (files, tensors) = open_shards(root, kind, &shards, awaited, notices, |shard| {
        let tensor = index.entries.iter().find(|entry| entry.shard == shard)?.name.to_string();
        Some(CheckpointError::MissingShard { index: root.shown(index_name), shard: shard.to_owned(), tensor })
    })?;
    check_index(root, index_name, &index.entries, &files, &tensors)?;

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
    index_name: &str,
    entries: &[IndexEntry],
    files: &[SourceFile],
    tensors: &[SourceTensor],
) -> Result<()> {
    let held: HashMap<&str, &str> = tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.as_str(), files.get(tensor.span()?.file)?.path.as_str())))
        .collect();
    for entry in entries {
        let found = held.get(entry.name.as_str()).copied();
        if found != Some(entry.shard.as_str()) {
            return Err(CheckpointError::TensorNotInShard {
                index: root.shown(index_name),
                tensor: entry.name.to_string(),
                shard: root.shown(&entry.shard),
                found_in: found.map(str::to_owned),
            }
            .into());
        }
    }
    // Both are sorted by name without doubles, and every entry is held: the first difference is unlisted.
    let mut listed = entries.iter().map(|entry| entry.name.as_str()).peekable();
    for tensor in tensors {
        if listed.next_if_eq(&tensor.name.as_str()).is_none() {
            let shard =
                tensor.span().and_then(|span| files.get(span.file)).map_or("", |file| file.path.as_str());
            return Err(CheckpointError::TensorNotInIndex {
                index: root.shown(index_name),
                tensor: tensor.name.to_string(),
                shard: root.shown(shard),
            }
            .into());
        }
    }
    Ok(())
}

/// A file of weights and its tensors, whose file number is yet to be set.
type Shard = (SourceFile, Vec<SourceTensor>);

/// Opens shards in the order given. `missing` makes the error for one that is not there.
fn open_shards(
    root: &Root,
    kind: ShardKind,
    shards: &[String],
    (awaited, mut left): (Vec<Awaited>, Left),
    notices: &mut Vec<Notice>,
    missing: impl Fn(&str) -> Option<CheckpointError>,
) -> Result<(Vec<SourceFile>, Vec<SourceTensor>)> {
    let mut opened = Vec::with_capacity(shards.len());
    let mut awaited: HashMap<String, Awaited> =
        awaited.into_iter().map(|awaited| (awaited.path.clone(), awaited)).collect();
    for shard in shards {
        if let Some(awaited) = awaited.remove(shard) {
            opened.push(await_shard(awaited));
            continue;
        }
        let Some(found) = root.find(shard)? else {
            let gone = || {
                let cause = io::ErrorKind::NotFound.into();
                IoError::new("opening a file of the checkpoint", root.shown(shard), cause).into()
            };
            return Err(missing(shard).map_or_else(gone, Error::from));
        };
        let file = root.open(&found.path, &found.fingerprint)?;
        opened.push(read_shard(root, kind, (found, file), &mut left, notices)?);
    }
    merge(root, opened)
}

fn read_shard(
    root: &Root,
    kind: ShardKind,
    (found, file): (Found, File),
    left: &mut Left,
    notices: &mut Vec<Notice>,
) -> Result<Shard> {
    let Found { path, len, sha256, fingerprint } = found;
    let shown = root.shown(&path);
    let shard = match kind {
        ShardKind::Safetensors => {
            let header = safetensors::read_header(&file, len, left).map_err(|fault| fault.at(&shown))?;
            let (metadata, tensors) = of_header(header);
            let held = Handle::new(Held::Open(file, fingerprint));
            (SourceFile { path, len, sha256, metadata, storages: Vec::new(), handle: held }, tensors)
        }
        ShardKind::Torch => {
            let content = torch::open(&file, len, left).map_err(|fault| fault.at(&shown))?;
            if !content.path.is_empty() || !content.left.is_empty() {
                let (file, path) = (path.clone(), content.path.join("."));
                notices.push(Notice::StateDict { file, path, left: content.left });
            }
            let tensors = content.tensors.into_iter().map(|tensor| SourceTensor {
                name: tensor.name,
                dtype: tensor.dtype,
                shape: tensor.shape,
                byte_len: tensor.byte_len,
                is_cache_scale: false,
                reading: Reading::Stored(Span {
                    file: 0,
                    offset: tensor.offset,
                    view: Some(Box::new(tensor.view)),
                }),
            });
            let held = Handle::new(Held::Open(file, fingerprint));
            let (metadata, storages) = (BTreeMap::new(), content.storages);
            (SourceFile { path, len, sha256, metadata, storages, handle: held }, tensors.collect())
        }
    };
    Ok(shard)
}

/// A safetensors file that is yet to come, by its head.
fn await_shard(awaited: Awaited) -> Shard {
    let Awaited { path, len, sha256, header, head } = awaited;
    let (metadata, tensors) = of_header(header);
    let handle = Handle::new(Held::Awaited(head));
    (SourceFile { path, len, sha256, metadata, storages: Vec::new(), handle }, tensors)
}

/// Metadata and tensors of a safetensors header.
fn of_header(header: safetensors::Header) -> (BTreeMap<String, String>, Vec<SourceTensor>) {
    let data_start = header.data_start;
    let tensors = header.tensors.into_iter().map(|tensor| SourceTensor {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        byte_len: tensor.end - tensor.start,
        is_cache_scale: false,
        // Checked: start <= end <= the file's data, which begins at data_start.
        reading: Reading::Stored(Span { file: 0, offset: data_start + tensor.start, view: None }),
    });
    (header.metadata, tensors.collect())
}

/// All shards' tensors in one list, sorted by name; refuses a name that two shards hold.
fn merge(root: &Root, shards: Vec<Shard>) -> Result<(Vec<SourceFile>, Vec<SourceTensor>)> {
    let mut files = Vec::with_capacity(shards.len());
    let mut tensors = Vec::with_capacity(shards.iter().map(|(_, tensors)| tensors.len()).sum());
    for (number, (file, of_shard)) in shards.into_iter().enumerate() {
        files.push(file);
        tensors.extend(of_shard.into_iter().map(|mut tensor| {
            if let Reading::Stored(span) = &mut tensor.reading {
                span.file = number;
            }
            tensor
        }));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            let path = |tensor: &SourceTensor| {
                let file = tensor.span().and_then(|span| files.get(span.file));
                file.map_or_else(String::new, |file| file.path.clone())
            };
            return Err(CheckpointError::TensorInTwoShards {
                root: root.given.clone(),
                tensor: a.name.to_string(),
                first: path(a),
                second: path(b),
            }
            .into());
        }
    }
    Ok((files, tensors))
}

fn read_index(root: &Root, name: &str, kind: ShardKind, limits: Limits) -> Result<Index> {
    let at = |fault: IndexFault| CheckpointError::index(root.shown(name), fault);
    if let Some(found) = root.find(name)? {
        Left::of(limits).take_text(found.len).map_err(|over| at(over.into()))?;
    }
    let text = files::read_text(root, name, index::MAX_INDEX_LEN)?;
    Ok(index::parse_within(&text, kind, limits).map_err(at)?)
}

/// The torch files that are the model where no index says so.
fn torch_files(dir: &Path, names: &[String], sets: &Sets) -> Result<Vec<String>> {
    if names.iter().any(|name| name == TORCH_SINGLE_NAME) {
        return Ok(vec![TORCH_SINGLE_NAME.to_owned()]);
    }
    let some = |fits: &dyn Fn(&str) -> bool| -> Vec<String> {
        names.iter().filter(|name| fits(name) && sets.why_not(name).is_none()).cloned().collect()
    };
    let named = some(&is_torch_weights);
    if !named.is_empty() {
        return Ok(named);
    }
    let loose = some(&|name| may_be_weights(name, &TORCH_ENDINGS));
    let loose = if loose.is_empty() { some(&|name| may_be_weights(name, &TRAINER_ENDINGS)) } else { loose };
    match loose.len() {
        0 | 1 => Ok(loose),
        _ => Err(CheckpointError::UnclearWeights { path: dir.to_owned(), files: loose }.into()),
    }
}

/// Most files whose first bytes are looked at where there are no weights.
const MAX_SNIFFED: usize = 64;

fn no_weights(root: &Root, names: &[String]) -> CheckpointError {
    let path = root.given.clone();
    if names.iter().any(|name| name == "model_index.json") {
        return CheckpointError::IsPipeline { path };
    }
    let kind_of = |name: &String| {
        let found = root.find(name).ok()??;
        let mut start = vec![0; usize::try_from(found.len.min(SNIFF_LEN)).ok()?];
        root.open(name, &found.fingerprint).ok()?.read_exact_at(&mut start, 0).ok()?;
        let others = [Disguise::Gguf, Disguise::Onnx, Disguise::CTranslate2];
        safetensors::disguise(&start).filter(|kind| others.contains(kind))
    };
    let other = names.iter().take(MAX_SNIFFED).find_map(|name| Some((kind_of(name)?, name.clone())));
    if let Some((kind, file)) = other {
        CheckpointError::OtherWeights { path, kind, file }
    } else if names.iter().any(|name| name == "config.json") {
        CheckpointError::NoWeights { path }
    } else {
        CheckpointError::NotACheckpoint { path }
    }
}

/// The names under which torch keeps a model's own weights: `pytorch_model*.bin`, `consolidated*.pth`, and
/// open_clip's. Others in the folder (`mm_projector.bin`) are side files, unless one is all there is.
pub(super) fn is_torch_weights(name: &str) -> bool {
    let of = |start: &str, end: &str| name.starts_with(start) && name.ends_with(end);
    of("pytorch_model", ".bin") || of("open_clip_pytorch_model", ".bin") || of("consolidated", ".pth")
}

/// Endings of torch files that hold a model and little else.
const TORCH_ENDINGS: [&str; 3] = [".bin", ".pt", ".pth"];

/// Endings of those that a trainer goes on from: a model's own file is preferred to them.
const TRAINER_ENDINGS: [&str; 2] = [".ckpt", ".pth.tar"];

fn is_torch_file(name: &str) -> bool {
    TORCH_ENDINGS.iter().chain(&TRAINER_ENDINGS).any(|end| name.ends_with(end))
}

/// A torch file of one of these endings, but for what a trainer leaves behind.
fn may_be_weights(name: &str, endings: &[&str]) -> bool {
    let left_behind = ["training_args", "optimizer", "scheduler", "rng_state"];
    endings.iter().any(|end| name.ends_with(end)) && !left_behind.iter().any(|start| name.starts_with(start))
}

impl safetensors::ReadFault {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Header(fault) => CheckpointError::header(path, fault).into(),
            Self::Io(source) => IoError::new("reading a file of the checkpoint", path, source).into(),
        }
    }
}

impl torch::TorchReadFault {
    /// The error of a fault in the file at `path`.
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Torch(fault) => CheckpointError::torch(path, fault).into(),
            Self::Io(source) => IoError::new("reading a file of the checkpoint", path, source).into(),
        }
    }
}
