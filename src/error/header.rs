//! Faults inside a safetensors file. Which file it is tells [`super::CheckpointError`], so that the parser need not know a path.

use crate::size::{agreed, counted};
use std::fmt;

use super::shown::{name_rule, shape_text, shown};
use super::{Explain, OverLimit};

/// What is wrong in one safetensors file.
///
/// Offsets are bytes from the start of the file's data, as in its header; counts are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// With this file the checkpoint is too much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// Shorter than the eight bytes that tell the header's length.
    #[error("the file is {}", if *len == 0 { "empty".to_owned() } else { format!("only {} long", counted(len, "byte")) })]
    TooShort {
        /// The file's length.
        len: u64,
    },
    /// The file is of another kind.
    #[error("the file is {0}, not safetensors")]
    OtherKind(Disguise),
    /// The header is longer than the format allows, or empty.
    #[error("the header's length is out of range: {}", counted(len, "byte"))]
    HeaderLen {
        /// The length the file tells.
        len: u64,
        /// The largest allowed.
        limit: u64,
    },
    /// The header reaches past the end of the file.
    #[error("the file ends inside its header, {} early", counted(missing, "byte"))]
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
    #[error("tensor {} has more than {}", shown(tensor), counted(limit, "dimension"))]
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
    #[error("tensor {} takes {} where its shape needs {needed}", shown(tensor), counted(found, "byte"))]
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
    #[error("the data has a hole of {} before tensor {}", counted(end - start, "byte"), shown(before))]
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
    #[error("the data is cut off: {}", agreed(missing, "byte is missing", "bytes are missing"))]
    MissingBytes {
        /// How many.
        missing: u64,
        /// Bytes of data the header describes.
        described: u64,
    },
    /// The file goes on after its data.
    #[error("{} the last tensor", agreed(extra, "byte follows", "bytes follow"))]
    ExtraBytes {
        /// How many.
        extra: u64,
        /// Bytes of data the header describes.
        described: u64,
    },
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
    /// An ONNX model.
    Onnx,
    /// A CTranslate2 model.
    CTranslate2,
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
            Self::Onnx => "an ONNX model",
            Self::CTranslate2 => "a CTranslate2 model",
            Self::Tar => "a tar archive",
        })
    }
}

impl Explain for HeaderFault {
    fn why(&self) -> Option<String> {
        Some(match self {
            Self::OverLimit(over) => return over.why(),
            Self::TooShort { .. } => "a safetensors file begins with the eight bytes of its header's length",
            Self::OtherKind(_) => "its first bytes show it, whatever its name says",
            Self::HeaderLen { limit, .. } => {
                return Some(format!("it must be from 2 to {}", counted(limit, "byte")));
            }
            Self::HeaderCutOff { header_len, .. } => {
                return Some(format!("its first eight bytes promise a header of {}", counted(header_len, "byte")));
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
                return Some(format!("the header describes {} of data, the file holds {held}", counted(described, "byte")));
            }
            Self::ExtraBytes { extra, described } => {
                let held = described.saturating_add(*extra);
                return Some(format!("the header describes {} of data, the file holds {held}", counted(described, "byte")));
            }
        }
        .to_owned())
    }

    fn help(&self) -> Option<String> {
        Some(
            match self {
                Self::OverLimit(over) => return over.help(),
                Self::OtherKind(Disguise::LfsPointer) => "run `git lfs pull` in its repository",
                Self::OtherKind(Disguise::Pickle | Disguise::Zip) => {
                    "give it its own name back: `pytorch_model.bin`"
                }
                Self::OtherKind(Disguise::Html | Disguise::Xml | Disguise::Json) => {
                    "fetch that file again: a server's message was saved in its place"
                }
                Self::OtherKind(Disguise::Gguf | Disguise::Onnx | Disguise::CTranslate2) => {
                    "give the checkpoint it was made from"
                }
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
