//! The manifest `mgpack.json`: what a bundle holds, where it came from, and the seal over every byte.
//!
//! Canonical: these structs in this order, pretty JSON with two blanks, one final newline. The same input and
//! options give the same bytes, and `verify` refuses a manifest that is not in this form. The bundle's id is
//! the SHA-256 of these bytes. Every text has a type that checks its form, in [`crate::names`]. `canonical` owns the form
//! of the bytes, `rules` what must hold between the fields, `lists` the texts of a bundle that follow from its manifest.
//! Carries out formats/bundle.md, "Manifest", and manifest.schema.json.

mod canonical;
mod lists;
mod rules;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::device_map::Profile;
use crate::digest::Digest;
use crate::family::Variant;
use crate::names::{
    BundleName, BundlePath, Commit, FamilyName, HubId, Line, ModuleName, PackageName, Pin, Range, SourcePath,
    Word, only_lines, text_of,
};
use crate::regular;
use crate::scheme::{Layout, OnOverflow, PartKind, Scheme};
use crate::tensor::{Dtype, TensorName};

pub use canonical::to_canonical;
pub use lists::sums;
pub(crate) use lists::{DEVICE_MAP_NAME, REQUIREMENTS_NAME, device_map_json, index_json};
pub(crate) use rules::Contradiction;
pub(crate) use rules::is_shard;

/// Name of the manifest in a bundle.
pub(crate) const MANIFEST_NAME: &str = "mgpack.json";
/// Name of the list of digests in a bundle.
pub const SUMS_NAME: &str = "SHA256SUMS";
/// Name of a later signature over a bundle.
pub(crate) const SIGNATURE_NAME: &str = "model.sig";
/// Version of the bundle format that is written.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// The oldest version that is read.
const OLDEST_VERSION: u32 = 1;
/// How every manifest begins.
const HEAD: &str = "{\n  \"format_version\":";
/// Largest manifest read, in bytes. 8x7B's has 3,000 tensors and takes 2 MB.
pub(crate) const MAX_MANIFEST_LEN: u64 = 256 << 20;

/// True where a folder holds what begins as every manifest does: another file of this name makes no bundle.
///
/// # Errors
/// The system's, and where it is no regular file: what cannot be read does not count as absent.
pub(crate) fn is_in(folder: &Path) -> io::Result<bool> {
    is_one(regular::open(&folder.join(MANIFEST_NAME)))
}

/// The same of the file of the manifest's name, as it was opened.
pub(crate) fn is_one(opened: io::Result<File>) -> io::Result<bool> {
    let file = match opened {
        Ok(file) => file,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(cause) => return Err(cause),
    };
    let mut head = Vec::new();
    file.take(HEAD.len() as u64).read_to_end(&mut head)?;
    Ok(head == HEAD.as_bytes())
}

/// The whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the bundle format.
    pub format_version: u32,
    /// The program that wrote it.
    pub producer: Producer,
    /// The model: family, class and the facts used.
    pub model: Model,
    /// Where the weights came from.
    pub source: Source,
    /// How they are stored.
    pub scheme: SchemeRecord,
    /// What the family needs installed.
    pub requirements: Vec<RequiredPackage>,
    /// Sums.
    pub totals: Totals,
    /// Every file but the manifest itself and a later signature, sorted by path.
    pub files: Vec<FileRecord>,
    /// Every tensor of the shards, in layer order.
    pub tensors: Vec<TensorRecord>,
    /// The modules that a device map places, in layer order; `None` in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<Vec<ModuleRecord>>,
    /// Device maps, one for each memory table asked for; at least one.
    pub device_maps: Vec<Profile>,
    /// Digest of the canonical manifest with sixty-four zeros in this place: finds a change in any byte of it.
    pub seal: Digest,
}

/// The program that wrote a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// `mgpack`.
    pub name: Word,
    /// Its version.
    pub version: Word,
}

/// The model a bundle holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of the bundle; MGM's loader chooses its class by it.
    pub name: BundleName,
    /// `mgm-7b`, …, or `generic`.
    pub family: FamilyName,
    /// `plain` or `hd` for MGM.
    pub variant: Option<Variant>,
    /// `architectures[0]` of config.json, where it is a word.
    pub architecture: Option<Word>,
    /// `model_type` of config.json, where it is a word.
    pub model_type: Option<Word>,
    /// The family's facts as they were used; null for `generic`.
    #[serde(deserialize_with = "only_lines")]
    pub facts: serde_json::Value,
}

/// Where a bundle's weights came from. No path of the machine that made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Hub id, where the checkpoint came from the hub.
    pub name: Option<HubId>,
    /// Commit of that repository.
    pub revision: Option<Commit>,
    /// Every file of the checkpoint and the towers, with what became of it.
    pub files: Vec<SourceFileRecord>,
}

/// One file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFileRecord {
    /// Path in the checkpoint; a tower's begins with `tower:`.
    pub path: SourcePath,
    /// Length in bytes.
    pub size: u64,
    /// Digest of the bytes that mgpack read of it; null where it did not hash them.
    pub sha256: Option<Digest>,
    /// What became of it.
    pub fate: SourceFate,
    /// Why it was left out or replaced.
    pub note: Option<Line>,
}

/// What became of a file of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceFate {
    /// Its tensors were converted.
    Converted,
    /// Its bytes are in the bundle.
    Copied,
    /// The bundle has a file of that name with other content.
    Replaced,
    /// It is not in the bundle.
    LeftOut,
}

/// How the weights are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeRecord {
    /// Name in schemes.md.
    pub name: Scheme,
    /// `bnb`, `compressed-tensors`, or null for casts.
    pub layout: Option<Layout>,
    /// `error`, `clamp` or `inf`: what was done beyond the range of the output type.
    pub on_overflow: OnOverflow,
    /// Patterns given by the user.
    pub ignore: Vec<Line>,
}

/// A package that the family needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredPackage {
    /// Name on the package index, or `python`.
    pub package: PackageName,
    /// The version pinned.
    pub pin: Pin,
    /// The range that works, as a PEP 440 specifier.
    pub range: Range,
    /// What fails outside it.
    pub reason: Line,
    /// Where that is known from.
    pub source: Line,
}

/// Sums over a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Bytes of all files listed.
    pub file_bytes: u64,
    /// Bytes of all tensors in the shards.
    pub tensor_bytes: u64,
    /// Bytes of the same tensors in the checkpoint.
    pub source_tensor_bytes: u64,
    /// Tensors in the shards.
    pub tensors: u64,
    /// Checkpoint tensors stored as codes.
    pub quantized: u64,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path in the bundle.
    pub path: BundlePath,
    /// Length in bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Digest,
}

/// One tensor of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRecord {
    /// Its name.
    pub name: TensorName,
    /// What it holds.
    pub kind: PartKind,
    /// Element type.
    pub dtype: Dtype,
    /// Shape in elements.
    pub shape: Vec<u64>,
    /// Path of its shard.
    pub shard: BundlePath,
    /// Begin and end in the shard, in bytes from the start of the file.
    pub range: [u64; 2],
    /// The tensor of the checkpoint it was made from.
    pub source: TensorName,
    /// Type of that tensor.
    pub source_dtype: Dtype,
    /// What that tensor was decoded from, where the checkpoint holds codes; else left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// Arithmetic by its name in schemes.md.
    pub arithmetic: Word,
    /// Error figures, on the codes or the cast values.
    pub error: Option<ErrorFigures>,
}

/// One module of the model as it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRecord {
    /// Its key in a device map.
    #[serde(deserialize_with = "text_of::<ModuleName, _>")]
    pub module: String,
    /// Bytes that it takes on a device.
    pub bytes: u64,
}

/// How a tensor of the checkpoint was decoded from codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoding {
    /// Arithmetic by its name in schemes.md.
    pub arithmetic: Word,
    /// The stored tensors: codes, scales and perhaps zero points.
    pub parts: Vec<TensorName>,
}

/// How far a stored tensor is from the checkpoint's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorFigures {
    /// Signal to noise in dB; null where noise or signal is 0.
    pub sqnr_db: Option<f64>,
    /// Largest absolute error.
    pub max_abs_error: f64,
    /// Cosine between the two; null where one is all zeros.
    pub cosine: Option<f64>,
    /// Quotients beyond the range of the codes, clamped; 0 for casts.
    pub clipped: u64,
    /// Finite values beyond the output type's range.
    pub overflowed: u64,
    /// Values that are not 0 in the checkpoint and 0 in the bundle.
    pub flushed: u64,
    /// NaN and infinities of the checkpoint, kept; the other figures leave them out.
    pub non_finite: u64,
}

impl ErrorFigures {
    /// Whether every value is the checkpoint's, as far as the figures show: one that cannot be distinguished from 0 beside the
    /// largest is counted as flushed.
    pub fn is_exact(&self) -> bool {
        self.sqnr_db.is_none() && self.max_abs_error == 0.0 && self.flushed == 0 && self.overflowed == 0
    }
}

impl Manifest {
    /// The manifest with its seal set.
    pub fn sealed(self) -> serde_json::Result<Self> {
        let seal = self.expected_seal()?;
        Ok(Self { seal, ..self })
    }

    /// The seal that belongs to the other fields.
    pub fn expected_seal(&self) -> serde_json::Result<Digest> {
        let unsealed = Self { seal: Digest::ZERO, ..self.clone() };
        Ok(Digest::of(&unsealed.to_bytes()?))
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        to_canonical(self)
    }

    /// Reads a manifest and insists on its canonical form.
    ///
    /// # Errors
    /// `ManifestFault` for JSON that is not a manifest, another format version, or another form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestFault> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let version: Version = serde_json::from_slice(bytes)?;
        if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version.format_version) {
            return Err(ManifestFault::Version { found: version.format_version });
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        let has_modules = manifest.format_version >= 2;
        if manifest.modules.is_some() != has_modules {
            let what = if has_modules { "missing field `modules`" } else { "unknown field `modules`" };
            return Err(ManifestFault::Json(serde::de::Error::custom(what)));
        }
        if manifest.to_bytes()? != bytes {
            return Err(ManifestFault::NotCanonical);
        }
        Ok(manifest)
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFault {
    /// Not JSON, or not of the manifest's form.
    #[error("it is not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// A format this program does not read.
    #[error("its format version is {found}; this mgpack reads {OLDEST_VERSION} to {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The right content in another form.
    #[error("it is not in canonical form: something rewrote it")]
    NotCanonical,
}
