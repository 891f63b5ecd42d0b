//! The texts of a bundle that follow from its manifest: the writer makes them with these functions, and `verify` holds the
//! files against the same.

use indexmap::IndexMap;

use super::{FileRecord, Manifest, SUMS_NAME, to_canonical};
use crate::checkpoint::index::INDEX_NAME;
use crate::device::Device;

/// Name of the first device map in a bundle.
pub(crate) const DEVICE_MAP_NAME: &str = "device_map.json";
/// Name of the list of requirements in a bundle.
pub(crate) const REQUIREMENTS_NAME: &str = "requirements.txt";

/// The content of SHA256SUMS: what `sha256sum -c --strict` reads. Lists every file but itself (and the
/// manifest and signature, which are not in `files`).
pub fn sums(files: &[FileRecord]) -> String {
    files
        .iter()
        .filter(|file| file.path != SUMS_NAME)
        .map(|file| format!("{}  {}\n", file.sha256, file.path))
        .collect()
}

/// The weight map of `model.safetensors.index.json`, in the form transformers writes.
///
/// # Errors
/// serde_json's.
pub(crate) fn index_json<'a>(
    total_size: u64,
    weight_map: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> serde_json::Result<Vec<u8>> {
    let mut sorted: Vec<_> = weight_map.into_iter().collect();
    sorted.sort_unstable();
    let map: IndexMap<_, _> = sorted.into_iter().collect();
    to_canonical(&serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": map }))
}

/// The text of `device_map.json`.
///
/// # Errors
/// serde_json's.
pub(crate) fn device_map_json(map: Option<&IndexMap<String, Device>>) -> serde_json::Result<Vec<u8>> {
    to_canonical(&map)
}

impl Manifest {
    /// The files whose bytes the manifest decides, each with its bytes.
    ///
    /// # Errors
    /// serde_json's.
    pub fn decided_files(&self) -> serde_json::Result<[(&'static str, Vec<u8>); 3]> {
        let weights = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shard.as_str()));
        let map = self.device_maps.first().map(|profile| &profile.map);
        Ok([
            (SUMS_NAME, sums(&self.files).into_bytes()),
            (INDEX_NAME, index_json(self.totals.tensor_bytes, weights)?),
            (DEVICE_MAP_NAME, device_map_json(map)?),
        ])
    }
}
