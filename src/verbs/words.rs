//! Options that several verbs share, as people write them: the scheme, the GPUs, the path.
//!
//! Each is a type of the library that reads itself from a word (`clap` on the command line) and from JSON (Python).

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::Work;
use crate::device::MemoryTable;
use crate::device_map::{Attention, GpuTable};
use crate::devices::Devices;
use crate::digest::Digest;
use crate::gpu_models::Capability;
use crate::kernels::Isa;
use crate::modules::MapRequest;
use crate::plan::Precision;
use crate::plan::WeightOptions;
use crate::scheme::Layout;

/// The GPUs that a device map is planned for.
#[derive(Clone, Debug)]
pub enum Gpus {
    /// These, with what each has.
    Table(GpuTable),
    /// Those of this machine, with what each has free.
    Auto,
}

impl Gpus {
    /// Reads `auto`, or a table as [`MemoryTable::parse`] does.
    ///
    /// # Errors
    /// As [`MemoryTable::parse`].
    pub fn parse(text: &str) -> Result<Self, crate::error::DeviceMapError> {
        if text == "auto" { Ok(Gpus::Auto) } else { GpuTable::parse(text).map(Gpus::Table) }
    }
}

impl<'de> Deserialize<'de> for Gpus {
    /// A text, or bytes by device.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Table(MemoryTable),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Self::parse(&text).map_err(de::Error::custom),
            Written::Table(memory) => Ok(Gpus::Table(GpuTable { memory, capabilities: Vec::new() })),
        }
    }
}

/// What a device map is planned for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Room {
    /// Each gives a map of its own.
    pub gpus: Vec<Gpus>,
    /// Tokens of prompt and answer, images apart.
    pub context: u64,
    /// Sequences at a time.
    pub batch: u64,
    /// Bytes kept free on every GPU.
    pub reserve: u64,
    /// Bytes of host memory that decoder layers may take; `None` allows none.
    pub allow_cpu: Option<u64>,
    /// Attention to reserve memory for; `None` is what the versions select.
    pub attention: Option<Attention>,
}

impl Default for Room {
    fn default() -> Self {
        let MapRequest { context, batch, reserve, allow_cpu, attention, .. } = MapRequest::default();
        Self { gpus: Vec::new(), context, batch, reserve, allow_cpu, attention }
    }
}

impl Room {
    /// The request for the planner, and the compute capabilities of the GPUs, each once. `auto` asks this machine, with a
    /// note where it has no GPU to plan for.
    pub(super) fn asked(&self, work: Work<'_>) -> (MapRequest, Vec<Capability>) {
        let mut memory = Vec::new();
        let mut capabilities = Vec::new();
        for gpus in &self.gpus {
            match gpus {
                Gpus::Table(table) => {
                    memory.push(table.memory.clone());
                    capabilities.extend_from_slice(&table.capabilities);
                }
                Gpus::Auto => {
                    let devices = Devices::detect(work.variables);
                    devices.notes.iter().for_each(|note| work.progress.note(note));
                    if let Some(why) = devices.without_gpu() {
                        work.progress.note(&format!("{why}: no device map is planned"));
                    }
                    memory.extend(devices.gpu_memory());
                    capabilities.extend(devices.capabilities());
                }
            }
        }
        capabilities.sort_unstable();
        capabilities.dedup();
        let request = MapRequest {
            memory,
            context: self.context,
            batch: self.batch,
            reserve: self.reserve,
            allow_cpu: self.allow_cpu,
            attention: self.attention,
        };
        (request, capabilities)
    }
}

/// How weights are stored, from one word for the scheme: `int8`, `fp16`, `bf16` or a preset.
pub(super) fn weights<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WeightOptions, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        scheme: String,
        format: Option<Layout>,
        #[serde(default)]
        ignore: Vec<String>,
    }
    let Written { scheme, format, ignore } = Written::deserialize(deserializer)?;
    let precision = Precision::named(&scheme).ok_or_else(|| {
        de::Error::custom(format!(
            "unknown scheme `{scheme}`, expected one of {}",
            Precision::words().join(", ")
        ))
    })?;
    Ok(WeightOptions { precision, layout: format, ignore })
}

/// The same, where it may be left open.
pub(super) fn weights_if_given<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<WeightOptions>, D::Error> {
    #[derive(Deserialize)]
    struct Given(#[serde(deserialize_with = "weights")] WeightOptions);
    Ok(Option::<Given>::deserialize(deserializer)?.map(|Given(weights)| weights))
}

/// An instruction set of this CPU by its name.
pub(super) fn isa<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Isa>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| named_isa(&name).map_err(de::Error::custom)).transpose()
}

/// An instruction set of this CPU by its name.
///
/// # Errors
/// A sentence with the names that this CPU has.
pub fn named_isa(name: &str) -> Result<Isa, String> {
    let names: Vec<_> = Isa::all().into_iter().map(Isa::name).collect();
    Isa::by_name(name).ok_or_else(|| format!("this CPU has: {}", names.join(", ")))
}

/// A bundle's id: `sha256:` and 64 lower-case hexadecimal digits, which may be alone. `None` where it is none.
pub fn id(text: &str) -> Option<Digest> {
    Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(text))
}

/// A path: a text, or what is not UTF-8 as bytes: `{"Unix": [47, 128]}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(PathBuf),
    Bytes(OsString),
}

impl From<Written> for PathBuf {
    fn from(path: Written) -> Self {
        match path {
            Written::Text(path) => path,
            Written::Bytes(path) => path.into(),
        }
    }
}

pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Written::deserialize(deserializer).map(Into::into)
}

pub(super) fn path_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::<Written>::deserialize(deserializer)?.map(Into::into))
}
