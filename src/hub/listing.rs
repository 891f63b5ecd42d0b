//! What the hub says a revision holds: `GET /api/models/ORG/NAME/revision/REV?blobs=true`, checked.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::digest::Digest;
use crate::size::counted;

/// Most files of a repository.
const MAX_FILES: usize = 100_000;

/// Longest path of a file.
const MAX_PATH_LEN: usize = 1024;

/// One revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The commit: 40 lower-case hexadecimal digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<HubFile>,
}

/// One file of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Path in the repository, safe to join to a folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of its content.
    pub hash: BlobHash,
}

/// The digest by which the hub names a file's content; its text is the name of the blob in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobHash {
    /// SHA-256 of a file in large-file storage.
    Sha256(String),
    /// SHA-1 that git gives a blob.
    Git(String),
}

impl BlobHash {
    /// Hexadecimal digits: the blob's name.
    pub fn name(&self) -> &str {
        match self {
            BlobHash::Sha256(hex) | BlobHash::Git(hex) => hex,
        }
    }
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Reads and checks the hub's answer.
///
/// # Errors
/// The rule that it breaks, in words.
pub(super) fn parse(text: &[u8]) -> Result<Listing, String> {
    let info: Info = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if !is_hex(&info.sha, 40) {
        return Err("the commit is not 40 hexadecimal digits".to_owned());
    }
    if info.siblings.len() > MAX_FILES {
        return Err(format!("it has more than {}", counted(MAX_FILES, "file")));
    }
    let mut seen = BTreeSet::new();
    let mut total = 0_u64;
    let mut files = Vec::with_capacity(info.siblings.len());
    for sibling in info.siblings {
        let path = sibling.rfilename;
        if !is_safe(&path) {
            return Err(format!("the path {path:?} is not safe"));
        }
        let (size, hash) = match (sibling.lfs, sibling.size, sibling.blob_id) {
            (Some(lfs), ..) => (lfs.size, BlobHash::Sha256(lfs.sha256)),
            (None, Some(size), Some(id)) => (size, BlobHash::Git(id)),
            _ => return Err(format!("{path:?} has no size or no digest")),
        };
        let good = match &hash {
            BlobHash::Sha256(hex) => is_hex(hex, 64) && Digest::from_hex(hex).is_some(),
            BlobHash::Git(hex) => is_hex(hex, 40),
        };
        if !good {
            return Err(format!("the digest of {path:?} is not hexadecimal digits"));
        }
        total = total.checked_add(size).ok_or("the sizes do not add up")?;
        if !seen.insert(path.clone()) {
            return Err(format!("the path {path:?} is listed twice"));
        }
        files.push(HubFile { path, size, hash });
    }
    Ok(Listing { commit: info.sha, files })
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_safe(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    path.len() <= MAX_PATH_LEN
        && !path.contains(|c: char| c == '\\' || c == ':' || c.is_control())
        && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(path: &str, digest: &str) -> Result<Listing, String> {
        let file = serde_json::json!({ "rfilename": path, "size": 3, "blobId": digest });
        let info = serde_json::json!({ "sha": "a".repeat(40), "siblings": [file] });
        parse(info.to_string().as_bytes())
    }

    #[test]
    fn a_listing_that_could_write_elsewhere_is_refused() {
        let digest = "0".repeat(40);
        assert!(listing("a/b.json", &digest).is_ok());
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "c:x", "a/./b", "a\0"] {
            assert!(listing(bad, &digest).is_err(), "{bad:?}");
        }
        for bad in ["", "../../x", &"G".repeat(40), &"A".repeat(40), &"0".repeat(39)] {
            assert!(listing("a", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_listed_twice_or_sizes_beyond_counting_are_refused() {
        let file = |path: &str, size: u64| serde_json::json!({ "rfilename": path, "size": size, "blobId": "0".repeat(40) });
        let parsed = |files: [serde_json::Value; 2]| {
            parse(serde_json::json!({ "sha": "a".repeat(40), "siblings": files }).to_string().as_bytes())
        };
        assert!(parsed([file("a", 1), file("b", 2)]).is_ok());
        assert!(parsed([file("a", 1), file("a", 1)]).is_err());
        assert!(parsed([file("a", u64::MAX), file("b", 1)]).is_err());
    }
}
