//! What must hold between the fields of a manifest, whatever lies beside it.
//!
//! `convert` holds its own manifest against these rules before a bundle is put in place, `verify` every manifest that it
//! reads. Carries out formats/bundle.md, "Verification", kind `manifest`.

use std::collections::BTreeSet;

use super::{DEVICE_MAP_NAME, MANIFEST_NAME, Manifest, REQUIREMENTS_NAME, SIGNATURE_NAME, SUMS_NAME};
use crate::checkpoint::index::INDEX_NAME;
use crate::names::{Clash, clash};
use crate::scheme::PartKind;

/// Files that every bundle lists.
const ALWAYS: [&str; 4] = [DEVICE_MAP_NAME, REQUIREMENTS_NAME, INDEX_NAME, SUMS_NAME];

/// A rule that a manifest breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// What the rule asks for.
    pub expected: String,
    /// What the manifest has.
    pub found: String,
}

impl Manifest {
    /// Every rule that the manifest breaks; empty for a good one.
    pub fn contradictions(&self) -> Vec<Contradiction> {
        let mut broken = Vec::new();
        let mut complain = |expected: String, found: String| broken.push(Contradiction { expected, found });
        match self.expected_seal() {
            Ok(seal) if seal == self.seal => {}
            Ok(seal) => complain(format!("seal {}", self.seal), format!("content with seal {seal}")),
            Err(error) => complain("a manifest that can be written".to_owned(), error.to_string()),
        }
        let mut last = "";
        for file in &self.files {
            if file.path == MANIFEST_NAME || file.path == SIGNATURE_NAME {
                complain("no record of the manifest or a signature".to_owned(), format!("`{}`", file.path));
            }
            if file.path.as_str() <= last {
                complain(
                    "files sorted by path, each once".to_owned(),
                    format!("`{}` after `{last}`", file.path),
                );
            }
            last = &file.path;
        }
        let own = [MANIFEST_NAME, SIGNATURE_NAME];
        match clash(self.files.iter().map(|file| file.path.as_str()).chain(own)) {
            None => {}
            Some(Clash::Case(first, second)) => {
                complain(
                    "paths that differ by more than letter case".to_owned(),
                    format!("`{first}` and `{second}`"),
                );
            }
            Some(Clash::Inside(file, inside)) => {
                complain("no file in the place of a folder".to_owned(), format!("`{file}` and `{inside}`"));
            }
        }
        let listed: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        for name in ALWAYS.iter().filter(|name| !listed.contains(**name)) {
            complain(format!("`{name}` among the files"), "nothing".to_owned());
        }
        if !listed.iter().any(|path| is_shard(path)) {
            complain("at least one shard".to_owned(), "none".to_owned());
        }
        self.check_tensors(&listed, &mut complain);
        self.check_totals(&mut complain);
        if self.device_maps.is_empty() {
            complain("at least one device map".to_owned(), "none".to_owned());
        }
        broken
    }

    fn check_tensors(&self, listed: &BTreeSet<&str>, complain: &mut impl FnMut(String, String)) {
        let (mut names, mut unlisted) = (BTreeSet::new(), BTreeSet::new());
        for tensor in &self.tensors {
            if !names.insert(tensor.name.as_str()) {
                complain("every tensor once".to_owned(), format!("`{}` twice", tensor.name));
            }
            if !is_shard(&tensor.shard) || !listed.contains(tensor.shard.as_str()) {
                unlisted.insert(tensor.shard.as_str());
            }
        }
        for shard in unlisted {
            complain(format!("shard `{shard}` among the files"), "nothing".to_owned());
        }
    }

    fn check_totals(&self, complain: &mut impl FnMut(String, String)) {
        let sum = |lengths: &mut dyn Iterator<Item = u64>| lengths.fold(0, u64::saturating_add);
        let len = |[start, end]: [u64; 2]| end.saturating_sub(start);
        let codes = self.tensors.iter().filter(|tensor| tensor.kind == PartKind::Codes);
        let totals = &self.totals;
        let counted = [
            ("file_bytes", totals.file_bytes, sum(&mut self.files.iter().map(|file| file.size))),
            (
                "tensor_bytes",
                totals.tensor_bytes,
                sum(&mut self.tensors.iter().map(|tensor| len(tensor.range))),
            ),
            ("tensors", totals.tensors, self.tensors.len() as u64),
            ("quantized", totals.quantized, codes.count() as u64),
        ];
        for (name, told, counted) in counted.into_iter().filter(|(_, told, counted)| told != counted) {
            complain(format!("totals.{name} {counted}"), told.to_string());
        }
    }
}

/// True for the path of a shard: a safetensors file at the top of the bundle.
pub(crate) fn is_shard(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.contains('/')
}
