//! mgpack converts MiniGemini and other Hugging Face checkpoints into sealed, self-contained bundles.
//!
//! [`verbs`] has a function for each command: it takes a call (the options as values) and [`verbs::Work`] (who is shown
//! progress, who may ask for a stop, the environment), and returns what the command prints. [`Bundle`] reads what was
//! made, and with the feature `load` loads it. [`Error`] explains itself: what happened, where, why, what to do.
//!
//! # Convert a checkpoint
//!
//! `tiny` is a checkpoint of MGM-7B's structure, 10 MB, that mgpack writes from a seed. It stands for a path, a hub id or
//! an alias.
//!
//! ```
//! use mgpack::progress::{Silent, Stop};
//! use mgpack::verbs::Work;
//! use mgpack::verbs::convert::{ConvertCall, PlanCall, convert};
//! use mgpack::{Bundle, Precision, WeightOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let stop = Stop::new();
//! // The checkpoint's cache is in the folder too. `Work::new` reads the environment of the process.
//! let variables = |name: &str| (name == "XDG_CACHE_HOME").then(|| dir.path().into());
//! let work = Work { progress: &Silent, stop: &stop, variables: &variables };
//! let call = ConvertCall {
//!     plan: PlanCall {
//!         model: "tiny".to_owned(),
//!         weights: WeightOptions { precision: Precision::Int8, ..WeightOptions::default() },
//!         ..PlanCall::default()
//!     },
//!     output: Some(dir.path().join("MGM-7B-tiny-int8")),
//!     ..ConvertCall::default()
//! };
//! let made = convert(&call, work)?;
//!
//! let bundle = Bundle::open(&made.outcome.path)?;
//! assert_eq!(bundle.id(), made.outcome.id);
//! // Nothing that exists is replaced, unless `force` says so.
//! let refused = convert(&call, work).err().ok_or("nothing was refused")?;
//! assert!(refused.is_refusal());
//! # Ok(())
//! # }
//! ```
//!
//! # Verify a bundle
//!
//! Every byte is compared with the seal, and every difference is a finding.
//!
//! ```
//! use mgpack::FindingKind;
//! use mgpack::progress::{Silent, Stop};
//! use mgpack::verbs::Work;
//! use mgpack::verbs::verify::{VerifyCall, verify};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let bundle = mgpack::internals::tiny_bundle(dir.path())?;
//! let stop = Stop::new();
//! let call = VerifyCall { bundle: bundle.clone(), ..VerifyCall::default() };
//! assert!(verify(&call, Work::new(&Silent, &stop))?.findings.is_empty());
//!
//! std::fs::remove_file(bundle.join("config.json"))?;
//! let report = verify(&call, Work::new(&Silent, &stop))?;
//! assert_eq!(report.findings[0].path, "config.json");
//! assert_eq!(report.findings[0].kind, FindingKind::Missing);
//! # Ok(())
//! # }
//! ```
//!
//! # Load a bundle
//!
//! Stage by stage onto devices of candle, with the device map of the bundle. Each shard is verified before it is read.
//!
#![cfg_attr(feature = "load", doc = "```")]
#![cfg_attr(not(feature = "load"), doc = "```ignore")]
//! use mgpack::Bundle;
//! use mgpack::load::{LoadDevices, Stored};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = mgpack::internals::tiny_bundle(dir.path())?;
//! let bundle = Bundle::open(&path)?;
//! // Host memory in the place of every GPU of the first device map, 1 GiB each.
//! let devices = LoadDevices::host(&bundle.manifest().device_maps[0], 1 << 30);
//! let loaded = bundle.load(&devices)?;
//!
//! let weight = &loaded.tensors["model.layers.0.mlp.up_proj.weight"];
//! assert!(matches!(weight, Stored::Codes { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! # Show progress
//!
//! Long work reports what it does to a [`progress::Progress`], from many threads, and prints nothing.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use mgpack::progress::{Progress, Stage, Stop};
//! use mgpack::verbs::Work;
//! use mgpack::verbs::verify::{VerifyCall, verify};
//!
//! /// Counts the bytes of all stages.
//! #[derive(Default)]
//! struct Bytes {
//!     announced: AtomicU64,
//!     done: AtomicU64,
//! }
//!
//! impl Progress for Bytes {
//!     fn begin(&self, _: Stage, total: u64) {
//!         self.announced.fetch_add(total, Ordering::Relaxed);
//!     }
//!     fn advance(&self, bytes: u64) {
//!         self.done.fetch_add(bytes, Ordering::Relaxed);
//!     }
//!     fn finish(&self) {}
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let bundle = mgpack::internals::tiny_bundle(dir.path())?;
//! let (bytes, stop) = (Bytes::default(), Stop::new());
//! verify(&VerifyCall { bundle, ..VerifyCall::default() }, Work::new(&bytes, &stop))?;
//! assert!(bytes.done.load(Ordering::Relaxed) > 1_000_000);
//! assert_eq!(bytes.done.into_inner(), bytes.announced.into_inner());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `cli` (default) is the command line with `hub`; `hub` downloads; `load` (default) loads with candle, and with `cuda` onto
//! GPUs. Without them mgpack has no argument parser, no network code and no tensors.

// Dead code is what the default features do not use: some of the rest serves the command or the loader alone.
#![cfg_attr(not(all(feature = "cli", feature = "load")), allow(dead_code, unused_imports))]

// The command is written as any program that uses this library: `mgpack::Bundle`, not `crate::Bundle`.
#[cfg(feature = "cli")]
extern crate self as mgpack;

mod archive;
mod beneath;
mod bundle;
mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod coding;
mod config;
mod convert;
mod device;
mod device_map;
mod devices;
mod digest;
mod disk;
mod doctor;
mod drawing;
mod environment;
pub mod error;
mod family;
mod gpu_models;
#[cfg(feature = "hub")]
mod hub;
mod json_text;
mod kernels;
mod legible;
#[cfg(feature = "load")]
pub mod load;
mod locate;
mod manifest;
mod map;
mod mention;
mod modules;
mod names;
mod output;
mod plan;
mod program;
pub mod progress;
mod python;
mod regular;
mod release;
mod report;
mod scheme;
mod shard;
mod size;
mod structure;
mod subject;
mod tensor;
mod threads;
mod tiny;
mod torch_zip;
pub mod verbs;

pub use bundle::{Bundle, Finding, FindingKind, Verification};
pub use checkpoint::Checkpoint;
pub use convert::{Conversion, Outcome};
pub use device::{Device, MemoryTable};
pub use device_map::{Attention, Profile};
pub use digest::Digest;
pub use error::{Error, Explain, Explanation, Result};
pub use kernels::Isa;
pub use manifest::Manifest;
pub use map::{Planned, Planner};
pub use plan::{Precision, WeightOptions};
pub use scheme::{Layout, OnOverflow, Scheme};

/// What the tests, benches and fuzz targets of this repository and the Python package use beyond the interface. No other
/// program may: it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub mod bundle {
        pub use crate::bundle::{SMALL_LEN, read_manifest, verify, verify_small};
    }
    pub mod checkpoint {
        pub use crate::checkpoint::{
            Checkpoint, Folder, Notice, SkipReason, SourceTensor, Span, hub, index, safetensors, torch,
        };
    }
    pub mod convert {
        pub use crate::convert::*;
    }
    pub mod device {
        pub use crate::device::{Device, MAX_DEVICES};
    }
    pub mod device_map {
        pub use crate::device_map::{
            Alternatives, Attention, Decoder, Device, DeviceMap, Encoders, IMAGE_TOKENS, MaxMemory,
            MemoryKey, MemorySize, MemoryTable, ModelConfig, ModelTree, Module, Remedy, Request, Reserves,
            Sizes, Sizing, TensorKind, TreeKind, TreeModule, TreeTensor, Vision, Working, Workload,
            broken_rules, build_tree, no_split_classes, parse_size, plan_accelerate, plan_mgm, torch_dtype,
        };
    }
    pub mod devices {
        pub use crate::devices::host_memory;
    }
    pub mod doctor {
        pub use crate::doctor::packages;
    }
    pub mod environment {
        pub use crate::environment::requirements_txt;
    }
    pub mod family {
        pub use crate::family::*;
    }
    pub mod locate {
        pub use crate::locate::{Located, Places};
    }
    pub mod manifest {
        pub use crate::manifest::{Manifest, RequiredPackage, SUMS_NAME, sums, to_canonical};
    }
    pub mod map {
        pub use crate::map::{Model, Planner, Workload};
    }
    pub mod mention {
        pub use crate::mention::{Mention, Setting, reword};
    }
    pub mod modules {
        pub use crate::modules::*;
    }
    pub mod plan {
        pub use crate::plan::*;
    }
    pub mod python {
        pub use crate::python::Python;
    }
    pub mod release {
        pub use crate::release::release;
    }
    pub mod structure {
        pub use crate::structure::*;
    }
    pub mod subject {
        pub use crate::subject::*;
    }
    pub mod tensor {
        pub use crate::tensor::{Dtype, Float, byte_len};
    }
    pub mod tiny {
        pub use crate::tiny::{TinyFile, files, write};
    }

    use std::path::{Path, PathBuf};

    use crate::progress::{Silent, Stop};
    use crate::verbs::Work;
    use crate::verbs::convert::{ConvertCall, PlanCall, convert};

    /// A bundle of the tiny checkpoint in `dir`, for the examples of the front page.
    pub fn tiny_bundle(dir: &Path) -> crate::Result<PathBuf> {
        let variables = |name: &str| (name == "XDG_CACHE_HOME").then(|| dir.into());
        let plan = PlanCall { model: "tiny".to_owned(), ..PlanCall::default() };
        let output = Some(dir.join("MGM-7B-tiny-int8"));
        let call = ConvertCall { plan, output, ..ConvertCall::default() };
        let work = Work { progress: &Silent, stop: &Stop::new(), variables: &variables };
        Ok(convert(&call, work)?.outcome.path)
    }
}
