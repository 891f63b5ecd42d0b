//! The shards' headers, held against the manifest.
//!
//! Carries out formats/bundle.md, "Verification", kind `header`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::contents::Contents;
use super::finding::{Finding, FindingKind};
use super::verify::{of_environment, unreadable};
use crate::checkpoint::safetensors::{self, Header};
use crate::error::Result;
use crate::manifest::{FileRecord, Manifest, TensorRecord, is_shard};
use crate::regular::is_of_environment;
use crate::size::counted;

/// The shards' headers hold exactly the tensors of the manifest, where it says.
pub(super) fn check_headers(
    manifest: &Manifest,
    contents: &dyn Contents,
    present: &[&FileRecord],
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let present: BTreeMap<&str, &FileRecord> =
        present.iter().map(|file| (file.path.as_str(), *file)).collect();
    let mut by_shard: BTreeMap<&str, Vec<&TensorRecord>> = BTreeMap::new();
    for tensor in &manifest.tensors {
        by_shard.entry(&tensor.shard).or_default().push(tensor);
    }
    // A shard without a record must say so in its header too.
    for file in manifest.files.iter().filter(|file| is_shard(&file.path)) {
        by_shard.entry(&file.path).or_default();
    }
    for (shard, tensors) in &by_shard {
        let Some(file) = present.get(shard) else { continue };
        let mut reader = match contents.open(shard) {
            Ok(reader) => reader,
            Err(cause) => {
                findings.push(unreadable(contents, shard, cause)?);
                continue;
            }
        };
        let read = match read_header(&mut reader, file.size) {
            Err(cause) if is_of_environment(&cause) => {
                return Err(of_environment(contents.place(shard), cause));
            }
            Err(cause) => Err(cause.to_string()),
            Ok(read) => read,
        };
        match read {
            Err(why) => findings.push(Finding::new(shard, FindingKind::Header, "a safetensors header", why)),
            Ok(header) => findings.extend(compare_header(shard, &header, tensors)),
        }
    }
    Ok(findings)
}

fn compare_header(shard: &str, header: &Header, tensors: &[&TensorRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed: BTreeMap<&str, &TensorRecord> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), *tensor)).collect();
    for entry in &header.tensors {
        let Some(tensor) = listed.remove(entry.name.as_str()) else {
            findings.push(Finding::new(
                shard,
                FindingKind::Header,
                "nothing",
                format!("tensor `{}`", entry.name),
            ));
            continue;
        };
        let described = |dtype, shape: &[u64], range: [u64; 2]| {
            format!("`{}` {dtype:?} {shape:?} at {}..{}", tensor.name, range[0], range[1])
        };
        let expected = described(tensor.dtype, &tensor.shape, tensor.range);
        let found = described(
            entry.dtype,
            &entry.shape,
            [header.data_start + entry.start, header.data_start + entry.end],
        );
        if expected != found {
            findings.push(Finding::new(shard, FindingKind::Header, expected, found));
        }
    }
    for name in listed.keys() {
        findings.push(Finding::new(shard, FindingKind::Header, format!("tensor `{name}`"), "nothing"));
    }
    findings
}

/// Reads a shard's header through any reader, with the checks of the checkpoint reader. What is wrong with it is text.
///
/// # Errors
/// The reader's.
fn read_header(reader: &mut dyn Read, len: u64) -> io::Result<std::result::Result<Header, String>> {
    let mut prefix = [0; safetensors::PREFIX_LEN as usize];
    reader.read_exact(&mut prefix)?;
    let header_len = u64::from_le_bytes(prefix);
    let data_len = len.checked_sub(safetensors::PREFIX_LEN).and_then(|rest| rest.checked_sub(header_len));
    let Some(data_len) = data_len.filter(|_| header_len <= safetensors::MAX_HEADER_LEN) else {
        return Ok(Err(format!("a header of {} in a file of {len}", counted(header_len, "byte"))));
    };
    let mut text = vec![0; header_len as usize];
    reader.read_exact(&mut text)?;
    let header = safetensors::parse(&text, data_len);
    Ok(header.map_err(|fault| fault.to_string()))
}
