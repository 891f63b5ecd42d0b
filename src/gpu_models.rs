//! GPU models by name: memory and compute capability, and what torch and vLLM have kernels for.
//!
//! Owns formats/gpus.json, the reading of a model's name, and the table of what serves what. Asks no machine: that is
//! [`crate::devices`].

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use pep440_rs::Version;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::scheme::Scheme;

/// A GPU's compute capability, which names its generation: 9.0 is Hopper, 10.0 and 12.0 are Blackwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// Before the point.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

/// The first that torch before 2.7 has no kernels for.
const BLACKWELL: Capability = Capability { major: 10, minor: 0 };

/// What PyPI's builds of torch have kernels for, as `torch._C._cuda_getArchFlags()` lists them. A kernel runs on its own
/// compute capability and on later ones of the same major number. None of these builds brings PTX for later GPUs.
const TORCH_KERNELS: [(&str, &[(u32, u32)]); 3] = [
    ("2.0.1", &[(3, 7), (5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6)]),
    ("2.3.1", &[(5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6), (9, 0)]),
    ("2.13.0", &[(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]),
];

impl Capability {
    /// The generation's name, where it has one here.
    pub fn generation(self) -> Option<&'static str> {
        Some(match (self.major, self.minor) {
            (6, _) => "Pascal",
            (7, 0..5) => "Volta",
            (7, _) => "Turing",
            (8, 9) => "Ada",
            (8, _) => "Ampere",
            (9, _) => "Hopper",
            (10..=12, _) => "Blackwell",
            _ => return None,
        })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Capability {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .trim()
            .split_once('.')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        parsed.ok_or("a compute capability is two numbers, such as 8.9")
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A model of GPU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GpuModel {
    /// What it is called, the usual name first. A model that is made with several sizes of memory has them in its names.
    pub names: Vec<String>,
    /// Its memory by its data sheet.
    pub memory_gib: u64,
    /// Whether a sixteenth of the memory holds the check bits of the rest.
    pub ecc_in_memory: bool,
    /// Its compute capability.
    pub compute_capability: Capability,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[expect(dead_code, reason = "for readers of the file")]
    source: serde_json::Value,
    models: Vec<GpuModel>,
}

impl GpuModel {
    /// Every model of formats/gpus.json.
    pub(crate) fn all() -> &'static [GpuModel] {
        static ALL: LazyLock<Vec<GpuModel>> = LazyLock::new(|| {
            match serde_json::from_str::<Table>(include_str!("../formats/gpus.json")) {
                Ok(table) => table.models,
                // The file is part of the program, and a test reads it.
                Err(error) => unreachable!("the embedded table of GPUs is wrong: {error}"),
            }
        });
        &ALL
    }

    /// The model of a name such as `RTX-4090`, `rtx 4090`, `A100-80GB`, in any case.
    ///
    /// # Errors
    /// The names that resemble it, most like first; none where none does.
    pub(crate) fn by_name(name: &str) -> Result<&'static GpuModel, Vec<String>> {
        let wanted = plain(name);
        let is_it = |model: &&GpuModel| model.names.iter().any(|name| plain(name) == wanted);
        if let Some(model) = GpuModel::all().iter().find(is_it) {
            return Ok(model);
        }
        let names = GpuModel::all().iter().filter_map(|model| model.names.first());
        let mut near: Vec<(f64, &String)> = names
            // Of `A100` the two sizes are nearer than `A10`.
            .map(|name| {
                let is_longer = plain(name).starts_with(&wanted) && !wanted.is_empty();
                (strsim::jaro_winkler(&wanted, &plain(name)) + f64::from(is_longer), name)
            })
            .filter(|(likeness, _)| *likeness >= 0.8)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        Err(near.into_iter().take(4).map(|(_, name)| name.clone()).collect())
    }

    /// Bytes that programs have of its memory.
    pub(crate) fn memory(&self) -> u64 {
        let bytes = self.memory_gib << 30;
        if self.ecc_in_memory { bytes / 16 * 15 } else { bytes }
    }
}

/// Letters and digits in upper case, without the maker's names.
fn plain(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let own = upper.trim().trim_start_matches("NVIDIA").trim_start_matches([' ', '-', '_']);
    let own = ["GEFORCE", "TESLA"].into_iter().fold(own, |own, word| own.trim_start_matches(word));
    own.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Whether this version of torch, as PyPI has it, has kernels for a GPU; `None` where that is not known here.
pub(crate) fn torch_has_kernels(version: &str, capability: Capability) -> Option<bool> {
    if let Some((_, kernels)) = TORCH_KERNELS.iter().find(|(known, _)| *known == version) {
        let runs = |&&(major, minor): &&(u32, u32)| major == capability.major && minor <= capability.minor;
        return Some(kernels.iter().any(|kernel| runs(&kernel)));
    }
    // The first with CUDA 12.8 and kernels for Blackwell was 2.7.0 (its release notes).
    let first = Version::new([2, 7, 0]);
    let is_older = Version::from_str(version).is_ok_and(|version| version < first);
    (is_older && capability >= BLACKWELL).then_some(false)
}

/// One sentence where `torch` has no kernels for a GPU. `torch`: its version.
pub(crate) fn torch_notice(torch: &str, capability: Capability) -> Option<String> {
    (!torch_has_kernels(torch, capability)?).then(|| {
        format!(
            "torch {torch} has no kernels for compute capability {capability}{}",
            of_generation(capability)
        )
    })
}

/// One sentence where vLLM has no kernels for a scheme on a GPU.
pub(crate) fn scheme_notice(scheme: Scheme, capability: Capability) -> Option<String> {
    let gpus = scheme.codec()?.vllm_gpus()?;
    let of = |(major, minor)| Capability { major, minor };
    let (first, last) = (of(gpus.first), gpus.last.map(of));
    let has_none = capability < first || last.is_some_and(|last| capability.major > last.major);
    let range = last.map_or_else(|| format!("{first} on"), |last| format!("{first} to {last}"));
    has_none.then(|| {
        format!(
            "vLLM has no kernel for {0} on compute capability {capability}{1}: it has them from {range}; bf16 and fp16 serve \
             there, and transformers loads {0}",
            scheme.name(),
            of_generation(capability)
        )
    })
}

/// What the card says of the GPUs of a scheme.
pub(crate) fn scheme_gpus(scheme: Scheme) -> Option<&'static str> {
    Some(scheme.codec()?.vllm_gpus()?.card)
}

/// What the card of an MGM bundle says of the GPUs that its pinned torch serves.
pub(crate) fn torch_gpus(torch: &str) -> Option<String> {
    let (_, kernels) = TORCH_KERNELS.iter().find(|(known, _)| *known == torch)?;
    let list: Vec<String> = kernels.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    Some(format!(
        "torch {torch} as PyPI has it has kernels for compute capability {} and later ones of the same first number: none for \
         Blackwell (10.0, 12.0){}.",
        list.join(", "),
        if torch_has_kernels(torch, Capability { major: 9, minor: 0 }) == Some(false) {
            "; for Hopper (9.0) torch 2.3.1 has them"
        } else {
            ""
        },
    ))
}

fn of_generation(capability: Capability) -> String {
    capability.generation().map_or_else(String::new, |name| format!(" ({name})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(text: &str) -> Capability {
        text.parse().unwrap()
    }

    #[test]
    fn models_are_found_by_the_names_that_people_write() {
        let gib = 1 << 30;
        for (name, memory, cc) in [
            ("RTX-5090", 32 * gib, "12.0"),
            ("rtx 4090", 24 * gib, "8.9"),
            ("NVIDIA GeForce RTX 4090", 24 * gib, "8.9"),
            ("RTX4090", 24 * gib, "8.9"),
            ("A100-80GB", 80 * gib, "8.0"),
            ("H100", 80 * gib, "9.0"),
            ("B200", 180 * gib, "10.0"),
            // nvidia-smi says 23,034 MiB and 15,360 MiB of these.
            ("L4", 23_040 << 20, "8.9"),
            ("Tesla T4", 15_360 << 20, "7.5"),
        ] {
            let model = GpuModel::by_name(name).unwrap();
            assert_eq!((model.memory(), model.compute_capability), (memory, capability(cc)), "{name}");
        }
        assert_eq!(GpuModel::by_name("A100").unwrap_err()[..2], ["A100-80GB", "A100-40GB"]);
        assert_eq!(GpuModel::by_name("RTX-509").unwrap_err().first().unwrap(), "RTX-5090");
        assert_eq!(GpuModel::by_name("zzz").unwrap_err(), Vec::<String>::new());
    }

    #[test]
    fn no_name_means_two_models() {
        let mut names: Vec<String> =
            GpuModel::all().iter().flat_map(|model| &model.names).map(|name| plain(name)).collect();
        let count = names.len();
        assert!(count > 60);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(GpuModel::all().iter().all(|model| model.compute_capability.generation().is_some()));
    }

    #[test]
    fn kernels_run_on_later_gpus_of_their_major_number() {
        for (torch, cc, has) in [
            ("2.0.1", "8.6", Some(true)),
            ("2.0.1", "8.9", Some(true)),
            ("2.0.1", "9.0", Some(false)),
            ("2.3.1", "9.0", Some(true)),
            ("2.3.1", "12.0", Some(false)),
            ("2.5.1", "9.0", None),
            ("2.5.1+cu121", "12.0", Some(false)),
            ("2.13.0", "12.0", Some(true)),
            ("2.13.0", "10.3", Some(true)),
            ("2.13.0", "7.0", Some(false)),
            ("2.9.0", "12.0", None),
        ] {
            assert_eq!(torch_has_kernels(torch, capability(cc)), has, "{torch} on {cc}");
        }
    }

    #[test]
    fn w8a8_has_kernels_from_turing_to_hopper() {
        let w8a8 = Scheme::named("W8A8").unwrap();
        for cc in ["7.5", "8.0", "8.9", "9.0"] {
            assert_eq!(scheme_notice(w8a8, capability(cc)), None, "{cc}");
        }
        for cc in ["6.1", "7.0", "10.0", "12.0", "12.1"] {
            assert!(scheme_notice(w8a8, capability(cc)).unwrap().contains(cc), "{cc}");
        }
        assert_eq!(scheme_notice(Scheme::BF16, capability("12.0")), None);
    }
}
