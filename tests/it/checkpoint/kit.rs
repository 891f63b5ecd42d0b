//! Builders of checkpoints, good and bad, in folders that vanish.

use std::fs;
use std::path::{Path, PathBuf};

use mgpack::error::{CheckpointError, Error, Explain, Explanation, HeaderFault};
use mgpack::internals::checkpoint::Checkpoint;
use tempfile::TempDir;

/// A folder with files in it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }

    /// A folder with one file `model.safetensors`.
    pub(crate) fn with_weights(bytes: &[u8]) -> Self {
        Self::new().file("model.safetensors", bytes)
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        let full = self.path().join(path);
        fs::create_dir_all(full.parent().expect("a folder above")).expect("folders");
        fs::write(full, bytes).expect("a file");
        self
    }

    /// Makes a link.
    pub(crate) fn link(self, path: &str, target: impl AsRef<Path>) -> Self {
        let full = self.path().join(path);
        fs::create_dir_all(full.parent().expect("a folder above")).expect("folders");
        std::os::unix::fs::symlink(target, full).expect("a link");
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::open(self.path())
    }

    /// Opens what must be sound.
    pub(crate) fn good(&self) -> Checkpoint {
        self.open().unwrap_or_else(|error| panic!("refused: {}", told(&error)))
    }

    /// Opens what must be refused.
    pub(crate) fn refused(&self) -> CheckpointError {
        match self.open() {
            Err(Error::Checkpoint(error)) => error,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// The bytes of a file: the header's length, the header, the data.
pub(crate) fn raw(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    bytes
}

/// A sound file of U8 tensors, `(name, length)`, one after the other; bytes count up.
pub(crate) fn sound(tensors: &[(&str, usize)]) -> Vec<u8> {
    let (mut entries, mut at) = (Vec::new(), 0);
    for (name, len) in tensors {
        let end = at + len;
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{at},{end}]}}"#));
        at = end;
    }
    let data: Vec<u8> = (0..at).map(|byte| byte as u8).collect();
    raw(format!("{{{}}}", entries.join(",")), &data)
}

/// The text of an index.
pub(crate) fn index(total_size: &str, weight_map: &[(&str, &str)]) -> String {
    let entries: Vec<String> = weight_map.iter().map(|(name, shard)| format!("{name:?}:{shard:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":{total_size}}},"weight_map":{{{}}}}}"#, entries.join(","))
}

pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The fault for which a file of these bytes is refused.
pub(crate) fn header_fault(bytes: &[u8]) -> HeaderFault {
    match Folder::with_weights(bytes).refused() {
        CheckpointError::Header(inner) => {
            assert!(inner.path.ends_with("model.safetensors"), "{:?}", inner.path);
            inner.fault
        }
        other => panic!("another error: {other:?}"),
    }
}

/// An error as the user sees it.
pub(crate) fn told(error: &(impl Explain + ?Sized)) -> String {
    let mut text = format!("error: {error}\n");
    let Explanation { place, why, help, .. } = error.explain();
    for (label, line) in [("where", place), ("  why", why), (" help", help)] {
        if let Some(line) = line {
            text.push_str(&format!("{label}: {line}\n"));
        }
    }
    text
}

/// Every text of an error is one line, and its first sentence is lower case without a full stop.
pub(crate) fn assert_well_told(error: &(impl Explain + ?Sized)) {
    let first = error.to_string();
    assert!(!first.ends_with('.') && !first.contains('\n') && !first.is_empty(), "{first:?}");
    let start = first.chars().next().expect("text");
    assert!(!start.is_uppercase(), "{first:?}");
    let Explanation { place, why, help, .. } = error.explain();
    for line in [place, why, help].into_iter().flatten() {
        assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
    }
}

/// A hub cache below a folder: blobs by hash, one snapshot with links.
pub(crate) struct Cache {
    pub(crate) folder: Folder,
    pub(crate) snapshot: PathBuf,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPO: &str = "hub/models--YanweiLi--MGM-2B";

/// Files are `(path, hash, bytes)`; `refs/main` names [`COMMIT`].
pub(crate) fn cache(files: &[(&str, &str, &[u8])]) -> Cache {
    let mut folder = Folder::new().file(&format!("{REPO}/refs/main"), COMMIT);
    let snapshot = format!("{REPO}/snapshots/{COMMIT}");
    fs::create_dir_all(folder.path().join(&snapshot)).expect("folders");
    for (path, hash, bytes) in files {
        let up = "../".repeat(2 + path.matches('/').count());
        folder = folder
            .file(&format!("{REPO}/blobs/{hash}"), bytes)
            .link(&format!("{snapshot}/{path}"), format!("{up}blobs/{hash}"));
    }
    let snapshot = folder.path().join(snapshot);
    Cache { folder, snapshot }
}
