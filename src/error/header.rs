//! Faults inside a safetensors file. Which file it is, is in [`super::CheckpointError`], so that the parser need not know a
//! path.

use std::fmt;

use super::explain::{damaged, name_rule, shown, what};
use super::{Explain, Explanation, OverLimit};
use crate::size::{agreed, counted};

/// What is wrong in one safetensors file.
///
/// Offsets are bytes from the start of the file's data, as in its header; counts are bytes.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum HeaderFault {
    OverLimit(OverLimit),
    TooShort { len: u64 },
    OtherKind(Disguise),
    HeaderLen { len: u64, limit: u64 },
    HeaderCutOff { header_len: u64, missing: u64 },
    NotUtf8 { source: std::str::Utf8Error },
    NotAnObject { found: Option<char> },
    Json { source: serde_json::Error },
    TrailingText,
    DuplicateKey { key: String },
    DuplicateField { tensor: String, field: &'static str },
    UnknownField { tensor: String, field: String },
    MissingField { tensor: String, field: &'static str },
    WrongType { entry: String, source: serde_json::Error },
    BadName { name: String, limit: usize },
    UnknownDtype { tensor: String, dtype: String },
    UnsupportedDtype { tensor: String, dtype: String },
    RankTooLarge { tensor: String, limit: usize },
    ShapeTooLarge { tensor: String, shape: Vec<u64> },
    OffsetCount { tensor: String, found: usize },
    EndBeforeStart { tensor: String, start: u64, end: u64 },
    SizeMismatch { tensor: String, dtype: String, shape: Vec<u64>, needed: u64, found: u64 },
    Hole { start: u64, end: u64, before: String },
    Overlap { first: String, second: String, first_end: u64, second_start: u64 },
    MissingBytes { missing: u64, described: u64 },
    ExtraBytes { extra: u64, described: u64 },
}

/// A download that may have ended early.
const CUT_OFF: &str = "the download may have been cut off: download that file again";

const FIELDS: &str = "a tensor has exactly the fields `dtype`, `shape` and `data_offsets`";

impl Explain for HeaderFault {
    fn explain(&self) -> Explanation {
        match self {
            Self::OverLimit(over) => over.explain(),
            Self::TooShort { len } => what(match len {
                0 => "the file is empty".to_owned(),
                _ => format!("the file is only {} long", counted(len, "byte")),
            })
            .why("a safetensors file begins with the eight bytes of its header's length")
            .help(CUT_OFF),
            Self::OtherKind(kind) => kind.explain("safetensors"),
            Self::HeaderLen { len, limit } => {
                damaged(format!("the header's length is out of range: {}", counted(len, "byte")))
                    .why(format!("it must be from 2 to {}", counted(limit, "byte")))
            }
            Self::HeaderCutOff { header_len, missing } => {
                what(format!("the file ends inside its header, {} early", counted(missing, "byte")))
                    .why(format!(
                        "its first eight bytes announce a header of {}",
                        counted(header_len, "byte")
                    ))
                    .help(CUT_OFF)
            }
            Self::NotUtf8 { source } => damaged("the header is not UTF-8 text").why(source),
            Self::NotAnObject { found } => damaged("the header does not begin with `{`").why(match found {
                None => "it is empty".to_owned(),
                Some('\u{feff}') => "it begins with a byte order mark".to_owned(),
                Some(found) => format!("it begins with {found:?}"),
            }),
            Self::Json { source } => damaged("the header is not valid JSON").why(source),
            Self::TrailingText => {
                damaged("something follows the header's closing brace").why("only spaces may follow")
            }
            Self::DuplicateKey { key } => damaged(format!("the header has the key {} twice", shown(key)))
                .why("readers disagree on which of the two counts"),
            Self::DuplicateField { tensor, field } => {
                damaged(format!("tensor {} has the field `{field}` twice", shown(tensor)))
                    .why("readers disagree on which of the two counts")
            }
            Self::UnknownField { tensor, field } => {
                damaged(format!("tensor {} has an unknown field {}", shown(tensor), shown(field))).why(FIELDS)
            }
            Self::MissingField { tensor, field } => {
                damaged(format!("tensor {} has no field `{field}`", shown(tensor))).why(FIELDS)
            }
            Self::WrongType { entry, source } => {
                damaged(format!("the entry {} holds a value of the wrong type", shown(entry))).why(source)
            }
            Self::BadName { name, limit } => {
                damaged(format!("a tensor has an unusable name: {}", shown(name))).why(name_rule(*limit))
            }
            Self::UnknownDtype { tensor, dtype } => {
                damaged(format!("tensor {} has the unknown element type {}", shown(tensor), shown(dtype)))
                    .why("names are those of safetensors 0.8, in capitals: `BF16`, `I8`")
            }
            Self::UnsupportedDtype { tensor, dtype } => {
                let tensor = shown(tensor);
                what(format!("tensor {tensor} has the packed element type {dtype}, which is not supported"))
                    .why("its elements do not fill whole bytes")
                    .help("give the checkpoint it was quantized from")
            }
            Self::RankTooLarge { tensor, limit } => {
                damaged(format!("tensor {} has more than {}", shown(tensor), counted(limit, "dimension")))
                    .why("no weight has that many")
            }
            Self::ShapeTooLarge { tensor, shape } => {
                damaged(format!("the shape of tensor {} is too large", shown(tensor)))
                    .why(format!("its shape is {shape:?}"))
            }
            Self::OffsetCount { tensor, found } => {
                damaged(format!("tensor {} does not have two data offsets but {found}", shown(tensor)))
                    .why("they are the first byte and the first byte after")
            }
            Self::EndBeforeStart { tensor, start, end } => {
                damaged(format!("the range of tensor {} ends before it starts", shown(tensor)))
                    .why(format!("it starts at byte {start} of the data and ends at byte {end}"))
            }
            Self::SizeMismatch { tensor, dtype, shape, needed, found } => {
                let (tensor, found) = (shown(tensor), counted(found, "byte"));
                damaged(format!("tensor {tensor} takes {found} where its shape needs {needed}"))
                    .why(format!("it is {shape:?} of {dtype}"))
            }
            Self::Hole { start, end, before } => {
                let len = counted(end.saturating_sub(*start), "byte");
                damaged(format!("the data has a hole of {len} before tensor {}", shown(before)))
                    .why(format!("no tensor holds the bytes {start} to {end} of the data"))
            }
            Self::Overlap { first, second, first_end, second_start } => {
                damaged(format!("tensors {} and {} overlap", shown(first), shown(second))).why(format!(
                    "the first ends at byte {first_end} of the data, the second starts at byte {second_start}"
                ))
            }
            Self::MissingBytes { missing, described } => {
                let missing_bytes = agreed(missing, "byte is missing", "bytes are missing");
                what(format!("the data is cut off: {missing_bytes}"))
                    .why(held(*described, described.saturating_sub(*missing)))
                    .help(CUT_OFF)
            }
            Self::ExtraBytes { extra, described } => {
                damaged(format!("{} the last tensor", agreed(extra, "byte follows", "bytes follow")))
                    .why(held(*described, described.saturating_add(*extra)))
            }
        }
    }
}

fn held(described: u64, held: u64) -> String {
    format!("the header describes {} of data, the file holds {held}", counted(described, "byte"))
}

/// What a file turned out to be, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disguise {
    /// The small text that Git LFS puts in a file's place.
    LfsPointer,
    Pickle,
    /// A ZIP archive, which is how `torch.save` writes.
    Zip,
    Html,
    /// An XML document, as storage services answer with.
    Xml,
    /// JSON without the header's length before it.
    Json,
    Gguf,
    Onnx,
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

impl Disguise {
    /// What is said of such a file where a `wanted` file should be.
    pub(super) fn explain(self, wanted: &str) -> Explanation {
        let other = damaged(format!("the file is {self}, not {wanted}"))
            .why("its first bytes show it, whatever its name says");
        match self {
            Self::LfsPointer => other.help("run `git lfs pull` in its repository"),
            Self::Pickle | Self::Zip => other.help("rename it to what it is: `pytorch_model.bin`"),
            Self::Html | Self::Xml | Self::Json => {
                other.help("download that file again: a server's message was saved in its place")
            }
            Self::Gguf | Self::Onnx | Self::CTranslate2 => other.help("give the checkpoint it was made from"),
            Self::Tar => other,
        }
    }
}
