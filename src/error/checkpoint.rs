//! Errors of finding and reading a checkpoint.
//!
//! [`CheckpointError`] says which file is concerned; what is wrong inside a header or an index is a fault
//! of its own ([`HeaderFault`], [`IndexFault`]), so that the parsers need not know any path.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{Explain, TorchFault};

/// A checkpoint could not be found, or is not what its files claim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing lies at the path given.
    #[error("there is no checkpoint at `{}`", shown_path(path))]
    NotFound {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint is a folder; this is something else.
    #[error("`{}` is not a folder", shown_path(path))]
    NotAFolder {
        /// As it was given.
        path: PathBuf,
    },
    /// The folder holds neither a `config.json` nor weights.
    #[error("`{}` is not a checkpoint", shown_path(path))]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has a `config.json` but no weights.
    #[error("the checkpoint holds no weights")]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// Several torch files (`.bin`, `.pt`, `.pth`), none of a name that says that it is the model.
    #[error("it is not clear which of the torch files is the model")]
    UnclearWeights {
        /// The folder.
        path: PathBuf,
        /// The files, sorted.
        files: Vec<String>,
    },
    /// An index and a `model.safetensors` that it does not list: loaders disagree on which counts.
    #[error("the checkpoint has an index and also a `{file}` that the index does not list")]
    TwoSetsOfWeights {
        /// The index.
        index: PathBuf,
        /// The file beside it.
        file: String,
    },
    /// A file or folder could not be opened, listed or read.
    #[error("cannot {action} `{}`", shown_path(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// A verb: `open`, `read`, `list`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, socket, device or folder stands where a file must be.
    #[error("`{}` is {kind}, not a regular file", shown_path(path))]
    NotRegular {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: NodeKind,
    },
    /// A symbolic link leads out of the checkpoint.
    #[error("the link `{}` leads out of the checkpoint", shown_path(path))]
    LinkLeavesRoot {
        /// The link.
        path: PathBuf,
        /// Where it leads, fully resolved.
        target: PathBuf,
    },
    /// A symbolic link leads to nothing.
    #[error("the link `{}` leads to nothing", shown_path(path))]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What the link says.
        target: PathBuf,
    },
    /// A file name that cannot be written in a manifest or a `SHA256SUMS` file.
    #[error("a file name is not plain text: {}", shown(&path.to_string_lossy()))]
    BadFileName {
        /// Its path, perhaps not UTF-8.
        path: PathBuf,
    },
    /// Two files whose names differ in case alone: one would overwrite the other on some systems.
    #[error("the names `{first}` and `{second}` differ in case alone")]
    NamesClash {
        /// The folder.
        root: PathBuf,
        /// One path, relative to it.
        first: String,
        /// The other.
        second: String,
    },
    /// More files than any checkpoint has.
    #[error("the folder holds more than {limit} files")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Folders nested deeper than any checkpoint has them.
    #[error("the folders are nested more than {limit} deep")]
    TooDeep {
        /// The folder reached.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A text file is larger than any of its kind.
    #[error("`{}` is too large: {len} bytes, where {limit} is the limit", shown_path(path))]
    TextTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A text file is not UTF-8.
    #[error("`{}` is not UTF-8 text", shown_path(path))]
    TextNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte's place.
        source: std::str::Utf8Error,
    },
    /// A file is not the one that was opened any more.
    #[error("`{}` changed while it was being read", shown_path(path))]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// In which way.
        change: Change,
    },
    /// A read reached past the end of a file: it was shortened, or the range was never in it.
    #[error("`{}` ended early", shown_path(path))]
    ReadPastEnd {
        /// The file.
        path: PathBuf,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        byte_len: u64,
    },
    /// A file of weights that is yet to come, or was let go.
    #[error("a file of weights is not here to be read")]
    NotHere {
        /// The file.
        path: PathBuf,
    },
    /// A file of weights that came is not the one whose head was told before.
    #[error("a file of weights is not the one that was announced")]
    NotAsAwaited {
        /// The file.
        path: PathBuf,
    },
    /// A path that is not among the checkpoint's side files.
    #[error("the checkpoint has no side file {}", shown(path))]
    NotASideFile {
        /// The path asked for.
        path: String,
        /// The root.
        root: PathBuf,
    },
    /// A safetensors file is not sound.
    #[error(transparent)]
    Header(Box<InFile<HeaderFault>>),
    /// A torch file is not sound.
    #[error(transparent)]
    Torch(Box<InFile<TorchFault>>),
    /// An index is not sound.
    #[error(transparent)]
    Index(Box<InFile<IndexFault>>),
    /// The index names a shard that is not there.
    #[error("the shard `{}` is missing", shown_bare(shard))]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard it names.
        shard: String,
        /// The first tensor it lists there.
        tensor: String,
    },
    /// The index lists a tensor in a shard that does not hold it.
    #[error("tensor `{tensor}` is not in its shard")]
    TensorNotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard the index names.
        shard: PathBuf,
        /// The shard that does hold it, if any.
        found_in: Option<String>,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("tensor `{tensor}` is not in the index")]
    TensorNotInIndex {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: PathBuf,
    },
    /// Two shards hold a tensor of one name.
    #[error("tensor `{tensor}` is in two shards, `{first}` and `{second}`")]
    TensorInTwoShards {
        /// The folder.
        root: PathBuf,
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
    /// No environment value says where the hub's cache is.
    #[error("the folder of the hub's cache is not known")]
    NoCacheFolder,
    /// Not the name of a repository.
    #[error("{} is not the name of a model repository", shown(repo_id))]
    BadRepoId {
        /// As it was given.
        repo_id: String,
    },
    /// Not the name of a revision.
    #[error("{} is not the name of a revision", shown(revision))]
    BadRevision {
        /// As it was given.
        revision: String,
    },
    /// The repository, or this revision of it, is not in the cache.
    #[error("`{repo_id}` is not in the hub's cache{}", at_revision(revision.as_deref()))]
    NotInCache {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// What was looked for.
        path: PathBuf,
    },
    /// A file in `refs/` does not hold a commit.
    #[error("the cache does not know the commit of `{repo_id}`{}", at_revision(revision.as_deref()))]
    BadRef {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// The file.
        path: PathBuf,
        /// The start of what it holds.
        text: String,
    },
    /// A download was interrupted, or only some files were fetched.
    #[error("the download of `{repo_id}` is not complete: {} missing", are_missing(files))]
    IncompleteSnapshot {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// The snapshot's folder.
        path: PathBuf,
        /// The missing files, relative to it, sorted.
        files: Vec<String>,
    },
}

/// A fault found inside a file.
///
/// Displays as the fault; its cause is the fault's cause.
#[derive(Debug)]
pub struct InFile<F> {
    /// The file.
    pub path: PathBuf,
    /// What is wrong in it.
    pub fault: F,
}

impl<F: fmt::Display> fmt::Display for InFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl<F: StdError> StdError for InFile<F> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.fault.source()
    }
}

/// What is wrong in one safetensors file.
///
/// Offsets are bytes from the start of the file's data, as in its header; counts are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Shorter than the eight bytes that tell the header's length.
    #[error("the file is {}", if *len == 0 { "empty".to_owned() } else { format!("only {len} bytes long") })]
    TooShort {
        /// The file's length.
        len: u64,
    },
    /// The file is of another kind.
    #[error("the file is {0}, not safetensors")]
    OtherKind(Disguise),
    /// The header is longer than the format allows, or empty.
    #[error("the header's length is out of range: {len} bytes")]
    HeaderLen {
        /// The length the file tells.
        len: u64,
        /// The largest allowed.
        limit: u64,
    },
    /// The header reaches past the end of the file.
    #[error("the file ends inside its header, {missing} bytes early")]
    HeaderCutOff {
        /// The header's length.
        header_len: u64,
        /// Bytes missing for the header alone.
        missing: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 text")]
    NotUtf8 {
        /// Where the first bad byte is.
        source: std::str::Utf8Error,
    },
    /// The header's first byte is not `{`.
    #[error("the header does not begin with `{{`")]
    NotAnObject {
        /// The first character.
        found: Option<char>,
    },
    /// The header is not JSON.
    #[error("the header is not sound JSON")]
    Json {
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// Something other than spaces follows the header's closing brace.
    #[error("something follows the header's closing brace")]
    TrailingText,
    /// Two entries of one name. The format forbids them; readers disagree on which counts.
    #[error("the header has the key {} twice", shown(key))]
    DuplicateKey {
        /// The key, `__metadata__.x` for one inside the metadata.
        key: String,
    },
    /// A tensor's entry has a field twice.
    #[error("tensor {} has the field `{field}` twice", shown(tensor))]
    DuplicateField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
    },
    /// A tensor's entry has a field that the format does not know.
    #[error("tensor {} has an unknown field {}", shown(tensor), shown(field))]
    UnknownField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: String,
    },
    /// A tensor's entry lacks a field.
    #[error("tensor {} has no field `{field}`", shown(tensor))]
    MissingField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
    },
    /// A value is of the wrong JSON type or out of range.
    #[error("the entry {} holds a value of the wrong type", shown(entry))]
    WrongType {
        /// The tensor, or `__metadata__`.
        entry: String,
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// A tensor name that is empty, too long, or holds a control character.
    #[error("a tensor has an unusable name: {}", shown(name))]
    BadName {
        /// The name.
        name: String,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// An element type that no version of the format has.
    #[error("tensor {} has the unknown element type {}", shown(tensor), shown(dtype))]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The type's name.
        dtype: String,
    },
    /// An element type smaller than a byte.
    #[error("tensor {} has the packed element type {dtype}, which is not supported", shown(tensor))]
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// The type's name.
        dtype: String,
    },
    /// More dimensions than any weight has.
    #[error("tensor {} has more than {limit} dimensions", shown(tensor))]
    RankTooLarge {
        /// The tensor.
        tensor: String,
        /// The most allowed.
        limit: usize,
    },
    /// The shape's size does not fit in 64 bits, or a dimension of a zero-size tensor is out of range.
    #[error("the shape of tensor {} is too large", shown(tensor))]
    ShapeTooLarge {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// `data_offsets` is not two numbers.
    #[error("tensor {} does not have two data offsets but {found}", shown(tensor))]
    OffsetCount {
        /// The tensor.
        tensor: String,
        /// How many it has; 3 stands for more.
        found: usize,
    },
    /// A range ends before it starts.
    #[error("the range of tensor {} ends before it starts", shown(tensor))]
    EndBeforeStart {
        /// The tensor.
        tensor: String,
        /// First byte.
        start: u64,
        /// First byte after.
        end: u64,
    },
    /// A range is not as long as the shape and type need.
    #[error("tensor {} takes {found} bytes where its shape needs {needed}", shown(tensor))]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes that shape and type need.
        needed: u64,
        /// Bytes in the range.
        found: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("the data has a hole of {} bytes before tensor {}", end - start, shown(before))]
    Hole {
        /// First byte of the hole.
        start: u64,
        /// First byte after.
        end: u64,
        /// The tensor that follows.
        before: String,
    },
    /// Bytes that belong to two tensors.
    #[error("tensors {} and {} overlap", shown(first), shown(second))]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
        /// Where the first ends.
        first_end: u64,
        /// Where the second starts.
        second_start: u64,
    },
    /// The file ends before its data does.
    #[error("the data is cut off: {missing} bytes are missing")]
    MissingBytes {
        /// How many.
        missing: u64,
        /// Bytes of data the header describes.
        described: u64,
    },
    /// The file goes on after its data.
    #[error("{extra} bytes follow the last tensor")]
    ExtraBytes {
        /// How many.
        extra: u64,
        /// Bytes of data the header describes.
        described: u64,
    },
}

/// What is wrong in one `model.safetensors.index.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// The index is not UTF-8.
    #[error("the index is not UTF-8 text")]
    NotUtf8 {
        /// Where the first bad byte is.
        source: std::str::Utf8Error,
    },
    /// The index is not JSON.
    #[error("the index is not sound JSON")]
    Json {
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// A value is of the wrong JSON type.
    #[error("the index holds a value of the wrong type")]
    WrongType {
        /// The parser's own words.
        source: serde_json::Error,
    },
    /// An object has one key twice.
    #[error("the index has the key {} twice", shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// There is no `weight_map`.
    #[error("the index has no `weight_map`")]
    NoWeightMap,
    /// The `weight_map` is empty.
    #[error("the index lists no tensors")]
    Empty,
    /// A tensor name that is empty, too long, or holds a control character.
    #[error("the index lists a tensor with an unusable name: {}", shown(name))]
    BadTensorName {
        /// The name.
        name: String,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A shard name that is not a plain path below the checkpoint.
    #[error("the index gives tensor `{tensor}` a shard name that is not acceptable: {}", shown(shard))]
    BadShardName {
        /// The tensor.
        tensor: String,
        /// The shard name.
        shard: String,
        /// The rule it breaks.
        rule: ShardNameRule,
    },
}

/// The rules for shard names. They are read as Windows paths on every system, so that an index that is
/// safe here is safe everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardNameRule {
    /// Must not be empty.
    Empty,
    /// Must not begin with a separator.
    Rooted,
    /// Must not name a drive or a stream (`:`).
    Drive,
    /// Must not have a part `..`.
    ParentFolder,
    /// Must not hold a backslash.
    Backslash,
    /// Must not have an empty part or a part `.`.
    OddPart,
    /// Must not have a part longer than 255 bytes.
    TooLong,
    /// Must not hold a control character.
    ControlCharacter,
    /// Must end in `.safetensors`.
    Extension,
    /// Must end in `.bin`, in an index of torch files.
    BinExtension,
}

impl fmt::Display for ShardNameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a shard name must not be empty",
            Self::Rooted => "a shard name must not begin with a separator",
            Self::Drive => "a shard name must not hold a colon (a drive or a stream)",
            Self::ParentFolder => "a shard name must not lead through a parent folder (`..`)",
            Self::Backslash => "a shard name must use `/`, never a backslash",
            Self::OddPart => "a shard name must not have an empty part or a part `.`",
            Self::TooLong => "a shard name must not have a part longer than 255 bytes",
            Self::ControlCharacter => "a shard name must not hold a control character",
            Self::Extension => "a shard name must end in `.safetensors`",
            Self::BinExtension => "in an index of torch files a shard name must end in `.bin`",
        })
    }
}

/// What a file that is not safetensors turned out to be, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disguise {
    /// The small text that Git LFS puts in a file's place.
    LfsPointer,
    /// A Python pickle.
    Pickle,
    /// A ZIP archive, which is how `torch.save` writes.
    Zip,
    /// A web page.
    Html,
    /// An XML document, as storage services answer with.
    Xml,
    /// Bare JSON without the length before it.
    Json,
    /// A GGUF model.
    Gguf,
    /// A tar archive, which is how torch 0.1 wrote.
    Tar,
}

impl fmt::Display for Disguise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LfsPointer => "a Git LFS pointer",
            Self::Pickle => "a Python pickle",
            Self::Zip => "a ZIP archive (a PyTorch checkpoint, perhaps)",
            Self::Html => "an HTML page",
            Self::Xml => "an XML document",
            Self::Json => "bare JSON text",
            Self::Gguf => "a GGUF model",
            Self::Tar => "a tar archive",
        })
    }
}

/// What stands where a regular file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
    /// Something else.
    Other,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Pipe => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "something special",
        })
    }
}

/// How a file differs from the one that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Another length, in bytes.
    Length {
        /// When it was opened.
        before: u64,
        /// Now.
        now: u64,
    },
    /// Written to since.
    Modified,
    /// Another file has its name now.
    Replaced,
    /// No file has its name now.
    Removed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { before, now } => write!(f, "it was {before} bytes long and is {now} now"),
            Self::Modified => f.write_str("its modification time is not what it was"),
            Self::Replaced => f.write_str("another file has its name now"),
            Self::Removed => f.write_str("no file has its name any more"),
        }
    }
}

impl CheckpointError {
    /// A fault of the safetensors file at `path`.
    pub(crate) fn header(path: impl Into<PathBuf>, fault: HeaderFault) -> Self {
        Self::Header(Box::new(InFile { path: path.into(), fault }))
    }

    /// A fault of the torch file at `path`.
    pub(crate) fn torch(path: impl Into<PathBuf>, fault: TorchFault) -> Self {
        Self::Torch(Box::new(InFile { path: path.into(), fault }))
    }

    /// A fault of the index at `path`.
    pub(crate) fn index(path: impl Into<PathBuf>, fault: IndexFault) -> Self {
        Self::Index(Box::new(InFile { path: path.into(), fault }))
    }

    /// An input or output error at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }
}

impl Explain for CheckpointError {
    fn place(&self) -> Option<String> {
        let path = match self {
            Self::NotFound { path, .. }
            | Self::NotAFolder { path }
            | Self::NotACheckpoint { path }
            | Self::NoWeights { path }
            | Self::UnclearWeights { path, .. }
            | Self::TwoSetsOfWeights { index: path, .. }
            | Self::Io { path, .. }
            | Self::NotRegular { path, .. }
            | Self::LinkLeavesRoot { path, .. }
            | Self::DanglingLink { path, .. }
            | Self::BadFileName { path }
            | Self::TooManyFiles { path, .. }
            | Self::TooDeep { path, .. }
            | Self::TextTooLarge { path, .. }
            | Self::TextNotUtf8 { path, .. }
            | Self::FileChanged { path, .. }
            | Self::ReadPastEnd { path, .. }
            | Self::NotHere { path }
            | Self::NotAsAwaited { path }
            | Self::NotASideFile { root: path, .. }
            | Self::MissingShard { index: path, .. }
            | Self::TensorNotInShard { shard: path, .. }
            | Self::TensorNotInIndex { shard: path, .. }
            | Self::TensorInTwoShards { root: path, .. }
            | Self::NamesClash { root: path, .. }
            | Self::NotInCache { path, .. }
            | Self::BadRef { path, .. }
            | Self::IncompleteSnapshot { path, .. } => path,
            Self::Header(inner) => &inner.path,
            Self::Torch(inner) => &inner.path,
            Self::Index(inner) => &inner.path,
            Self::NoCacheFolder | Self::BadRepoId { .. } | Self::BadRevision { .. } => return None,
        };
        Some(shown_path(path))
    }

    fn why(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { source, .. } | Self::Io { source, .. } => source.to_string(),
            Self::NotAFolder { .. } => {
                "a checkpoint is the folder that holds `config.json` and the weights".to_owned()
            }
            Self::NotACheckpoint { .. } => {
                "it holds neither `config.json` nor weights (`*.safetensors`, `pytorch_model*.bin`)"
                    .to_owned()
            }
            Self::NoWeights { .. } => {
                "it has a `config.json` but neither `*.safetensors` nor `pytorch_model*.bin`".to_owned()
            }
            Self::UnclearWeights { files, .. } => format!("found {}", listed(files)),
            Self::TwoSetsOfWeights { .. } => {
                "loaders disagree: transformers reads the single file, others the index".to_owned()
            }
            Self::NotRegular { .. } => "reading it could block or never end".to_owned(),
            Self::LinkLeavesRoot { target, .. } => {
                format!(
                    "it leads to `{}`; only links into the `blobs` folder of the same hub cache may leave",
                    shown_path(target)
                )
            }
            Self::DanglingLink { target, .. } => format!("it points to `{}`", shown_path(target)),
            Self::BadFileName { .. } => {
                "names must be UTF-8 without backslashes and control characters, or no checksum list can \
                 hold them"
                    .to_owned()
            }
            Self::TooManyFiles { .. } | Self::TooDeep { .. } => "no checkpoint looks like that".to_owned(),
            Self::TextTooLarge { .. } => "real ones are a hundred times smaller".to_owned(),
            Self::TextNotUtf8 { source, .. } => source.to_string(),
            Self::FileChanged { change, .. } => change.to_string(),
            Self::ReadPastEnd { offset, byte_len, .. } => {
                format!("{byte_len} bytes were wanted from byte {offset} on")
            }
            Self::NotHere { .. } => "it is yet to come, or was read to the end and let go".to_owned(),
            Self::NotAsAwaited { .. } => {
                "its length or its header differ from what the hub sent before the file".to_owned()
            }
            Self::NotASideFile { .. } => "only files that it listed when opened can be read".to_owned(),
            Self::Header(inner) => return inner.fault.why(),
            Self::Torch(inner) => return inner.fault.why(),
            Self::Index(inner) => return inner.fault.why(),
            Self::MissingShard { tensor, .. } => format!("the index lists tensor `{tensor}` there"),
            Self::TensorNotInShard { index, found_in: None, .. } => {
                format!("{} lists it there; the shard's header does not", file_name(index))
            }
            Self::TensorNotInShard { index, found_in: Some(other), .. } => {
                format!("{} lists it there; it is in `{}`", file_name(index), shown_bare(other))
            }
            Self::TensorNotInIndex { index, .. } => {
                format!("the shard holds it; {} does not list it", file_name(index))
            }
            Self::NamesClash { .. } => "a bundle must also fit on Windows and macOS".to_owned(),
            Self::TensorInTwoShards { .. } => "loaders disagree on which one counts".to_owned(),
            Self::NoCacheFolder => "neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set".to_owned(),
            Self::BadRepoId { .. } => {
                "it must be `org/name` of letters, digits, `-`, `_` and `.`, without `..` and `--`".to_owned()
            }
            Self::BadRevision { .. } => {
                "it must be a branch, a tag or a commit of 40 hexadecimal digits".to_owned()
            }
            Self::NotInCache { path, revision, .. } => {
                let mut why = format!("`{}` does not exist", shown_path(path));
                if revision.as_deref().is_some_and(looks_like_short_commit) {
                    why.push_str("; a commit must be given with all 40 digits");
                }
                why
            }
            Self::BadRef { text, .. } => format!("the file holds {}, not a commit", shown(text)),
            Self::IncompleteSnapshot { files, .. } => {
                const MOST: usize = 10;
                let names: Vec<String> = files.iter().take(MOST).map(|file| shown_bare(file)).collect();
                let more = files.len().saturating_sub(MOST);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("the snapshot in the cache lacks {}{more}", names.join(", "))
            }
        })
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => "check the path; a hub model is named `org/name`".to_owned(),
            Self::NotAFolder { path } => match path.extension() {
                Some(extension) if extension == "safetensors" => {
                    format!(
                        "give its folder, or look at this one file with `mgpack inspect {}`",
                        shown_path(path)
                    )
                }
                _ => "give the folder that holds the weights".to_owned(),
            },
            Self::NotACheckpoint { .. } => "give the folder that holds the weights".to_owned(),
            Self::NoWeights { .. } | Self::MissingShard { .. } | Self::DanglingLink { .. } => {
                "the download may not be complete: fetch the model again".to_owned()
            }
            Self::UnclearWeights { .. } => {
                "name the model's file `pytorch_model.bin`, or move the others out of the checkpoint"
                    .to_owned()
            }
            Self::TwoSetsOfWeights { file, .. } => {
                format!("move `{file}` or the index elsewhere, whichever is not the model")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make it readable for you, then try again".to_owned()
            }
            Self::NamesClash { second, .. } => format!("rename `{second}` or move it out of the checkpoint"),
            Self::NotRegular { .. } | Self::BadFileName { .. } => {
                "rename it or move it out of the checkpoint".to_owned()
            }
            Self::LinkLeavesRoot { .. } => "put a copy of the file in the link's place".to_owned(),
            Self::TooManyFiles { .. } | Self::TooDeep { .. } => {
                "give the folder that holds the weights, not one above it".to_owned()
            }
            Self::NotAsAwaited { .. } => "run the same command again".to_owned(),
            Self::FileChanged { .. } | Self::ReadPastEnd { .. } => {
                "wait until nothing writes to the checkpoint, then start again".to_owned()
            }
            Self::Header(inner) => return inner.fault.help(),
            Self::Torch(inner) => return inner.fault.help(),
            Self::Index(inner) => return inner.fault.help(),
            Self::TensorNotInShard { .. } | Self::TensorNotInIndex { .. } => {
                "fetch that shard and the index again: they are not of one version".to_owned()
            }
            Self::TensorInTwoShards { .. } => {
                "remove the shard that is not of this model, or fetch the model again".to_owned()
            }
            Self::NoCacheFolder => "set HF_HUB_CACHE to the folder, or give the checkpoint's path".to_owned(),
            Self::BadRepoId { .. } => "write it as on the hub: YanweiLi/MGM-34B".to_owned(),
            Self::BadRevision { .. } => "leave it out for the branch `main`".to_owned(),
            Self::NotInCache { repo_id, revision, .. }
            | Self::BadRef { repo_id, revision, .. }
            | Self::IncompleteSnapshot { repo_id, revision, .. } => {
                download_line(repo_id, revision.as_deref())
            }
            Self::TextTooLarge { .. } | Self::TextNotUtf8 { .. } => "fetch that file again".to_owned(),
            Self::Io { .. } | Self::NotASideFile { .. } | Self::NotHere { .. } => return None,
        })
    }
}

impl Explain for HeaderFault {
    fn why(&self) -> Option<String> {
        Some(match self {
            Self::TooShort { .. } => "a safetensors file begins with the eight bytes of its header's length",
            Self::OtherKind(_) => "its first bytes show it, whatever its name says",
            Self::HeaderLen { limit, .. } => {
                return Some(format!("it must be from 2 to {limit} bytes"));
            }
            Self::HeaderCutOff { header_len, .. } => {
                return Some(format!("its first eight bytes promise a header of {header_len} bytes"));
            }
            Self::NotUtf8 { source } => return Some(source.to_string()),
            Self::NotAnObject { found: Some('\u{feff}') } => "it begins with a byte order mark",
            Self::NotAnObject { found: Some(found) } => return Some(format!("it begins with {found:?}")),
            Self::NotAnObject { found: None } => "it is empty",
            Self::Json { source } | Self::WrongType { source, .. } => return Some(source.to_string()),
            Self::TrailingText => "only spaces may follow",
            Self::DuplicateKey { .. } | Self::DuplicateField { .. } => {
                "readers disagree on which of the two counts"
            }
            Self::UnknownField { .. } | Self::MissingField { .. } => {
                "a tensor has exactly the fields `dtype`, `shape` and `data_offsets`"
            }
            Self::BadName { limit, .. } => return Some(name_rule(*limit)),
            Self::UnknownDtype { .. } => "names are those of safetensors 0.8, in capitals: `BF16`, `I8`",
            Self::UnsupportedDtype { .. } => "its elements do not fill whole bytes",
            Self::RankTooLarge { .. } => "no weight has that many",
            Self::ShapeTooLarge { shape, .. } => return Some(format!("its shape is {}", shape_text(shape))),
            Self::OffsetCount { .. } => "they are the first byte and the first byte after",
            Self::EndBeforeStart { start, end, .. } => {
                return Some(format!("it starts at byte {start} of the data and ends at byte {end}"));
            }
            Self::SizeMismatch { dtype, shape, .. } => {
                return Some(format!("it is {} of {dtype}", shape_text(shape)));
            }
            Self::Hole { start, end, .. } => {
                return Some(format!("no tensor holds the bytes {start} to {end} of the data"));
            }
            Self::Overlap { first_end, second_start, .. } => {
                return Some(format!(
                    "the first ends at byte {first_end} of the data, the second starts at byte {second_start}"
                ));
            }
            Self::MissingBytes { missing, described } => {
                let held = described.saturating_sub(*missing);
                return Some(format!("the header describes {described} bytes of data, the file holds {held}"));
            }
            Self::ExtraBytes { extra, described } => {
                let held = described.saturating_add(*extra);
                return Some(format!("the header describes {described} bytes of data, the file holds {held}"));
            }
        }
        .to_owned())
    }

    fn help(&self) -> Option<String> {
        Some(
            match self {
                Self::OtherKind(Disguise::LfsPointer) => "run `git lfs pull` in its repository",
                Self::OtherKind(Disguise::Pickle | Disguise::Zip) => {
                    "give it its own name back: `pytorch_model.bin`"
                }
                Self::OtherKind(Disguise::Html | Disguise::Xml | Disguise::Json) => {
                    "fetch that file again: a server's message was saved in its place"
                }
                Self::OtherKind(Disguise::Gguf) => "give the checkpoint it was made from",
                Self::TooShort { .. } | Self::HeaderCutOff { .. } | Self::MissingBytes { .. } => {
                    "the download may have been cut off: fetch that file again"
                }
                Self::UnsupportedDtype { .. } => "give the checkpoint it was quantized from",
                _ => "fetch that file again; if it stays so, the program that wrote it is at fault",
            }
            .to_owned(),
        )
    }
}

impl Explain for IndexFault {
    fn why(&self) -> Option<String> {
        Some(match self {
            Self::NotUtf8 { source } => source.to_string(),
            Self::Json { source } | Self::WrongType { source } => source.to_string(),
            Self::DuplicateKey { .. } => "readers disagree on which of the two counts".to_owned(),
            Self::NoWeightMap | Self::Empty => "its `weight_map` tells which shard holds a tensor".to_owned(),
            Self::BadTensorName { limit, .. } => name_rule(*limit),
            Self::BadShardName { rule, .. } => rule.to_string(),
        })
    }

    fn help(&self) -> Option<String> {
        Some(
            "fetch the index again, or move it elsewhere: without one, all shards in the folder are read"
                .to_owned(),
        )
    }
}

/// The command that fetches a repository.
fn download_line(repo_id: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("`mgpack pull {repo_id} --revision {revision}`"),
        None => format!("`mgpack pull {repo_id}`"),
    }
}

fn at_revision(revision: Option<&str>) -> String {
    revision.map_or_else(String::new, |revision| format!(" at revision `{revision}`"))
}

fn are_missing(files: &[String]) -> String {
    format!("{} {}", listed(files), if files.len() == 1 { "is" } else { "are" })
}

fn looks_like_short_commit(revision: &str) -> bool {
    (4..40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| shown_bare(&name.to_string_lossy()))
}

fn listed(files: &[String]) -> String {
    match files {
        [] => "nothing".to_owned(),
        [only] => format!("`{}`", shown_bare(only)),
        [first, rest @ ..] => format!("`{}` and {} more", shown_bare(first), rest.len()),
    }
}

pub(super) fn name_rule(limit: usize) -> String {
    format!("a name must be 1 to {limit} bytes without control characters")
}

pub(super) fn shape_text(shape: &[u64]) -> String {
    format!("{shape:?}")
}

/// A path for people: control characters escaped, so that a file name cannot steer a terminal.
pub(super) fn shown_path(path: &Path) -> String {
    shown_bare(&path.to_string_lossy())
}

/// Untrusted text in quotes, escaped, at most 200 characters of it.
pub(super) fn shown(text: &str) -> String {
    format!("`{}`", shown_bare(text))
}

/// The same without quotes.
pub(super) fn shown_bare(text: &str) -> String {
    const MOST: usize = 200;
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_shortens_untrusted_text() {
        assert_eq!(shown("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), 203);
    }

    #[test]
    fn tells_the_download_line_with_and_without_a_revision() {
        assert_eq!(download_line("a/b", None), "`mgpack pull a/b`");
        assert_eq!(download_line("a/b", Some("v1")), "`mgpack pull a/b --revision v1`");
    }

    #[test]
    fn errors_stay_small_enough_to_return_by_value() {
        assert!(size_of::<CheckpointError>() <= 128, "{}", size_of::<CheckpointError>());
    }
}
