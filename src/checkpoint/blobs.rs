//! Where a hub's cache keeps the contents that the links of a snapshot lead to.
//!
//! A snapshot is `models--ORG--NAME/snapshots/COMMIT`, and its files are links to `models--ORG--NAME/blobs/HASH`. That
//! folder may itself be a link to another disk, and an entry of it may be a link to the store that all repositories of
//! a cache share, `blobs/XX/XETHASH` beside them, or to a blob of another repository. Nothing else is followed: a
//! link to any other file would put that file into a bundle. Source: huggingface_hub 2.4, utils/_shared_blobs.py.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::files::is_hex;

/// Most links between a snapshot's file and its content: two, and those that a person put there.
const MAX_LINKS: usize = 8;

/// The contents that one snapshot may link to.
#[derive(Debug)]
pub(super) struct Blobs {
    /// The repository's own `blobs`, without links; `None` where it is not there.
    own: Option<PathBuf>,
    /// The folder that holds the repositories, without links.
    cache: PathBuf,
}

impl Blobs {
    /// Those of the snapshot that `given` is, or is in; `real` is the same without links. `None` for a folder that is
    /// in no snapshot.
    pub(super) fn of(given: &Path, real: &Path) -> Option<Self> {
        // The repository may be a link to another disk; the shared store is then beside the link.
        let given = std::path::absolute(given).ok()?;
        let cache_of = |path: &Path| fs::canonicalize(repo_of(path)?.parent()?).ok();
        let repo = repo_of(real)?;
        let own = fs::canonicalize(repo.join("blobs")).ok();
        Some(Self { own, cache: cache_of(&given).or_else(|| cache_of(real))? })
    }

    /// True where the file `real`, a path without links, may be the content of a snapshot's file.
    pub(super) fn may_be(&self, real: &Path) -> bool {
        let is_in_own = self.own.is_some() && real.parent() == self.own.as_deref();
        if is_in_own && self.own.as_ref().is_some_and(|own| own.starts_with(&self.cache)) {
            return true;
        }
        // Outside of the cache, and in what is not of this repository, only what is named as a content is.
        let is_named = real
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| is_hex(name, 64) || is_hex(name, 40));
        is_named && (is_in_own || self.is_of_cache(real))
    }

    /// `blobs/XX/HASH` or `models--ORG--NAME/blobs/HASH` of the cache.
    fn is_of_cache(&self, real: &Path) -> bool {
        let Ok(inside) = real.strip_prefix(&self.cache) else { return false };
        let parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
        match parts.as_slice() {
            ["blobs", start, name] => start.len() == 2 && name.starts_with(start),
            [repo, "blobs", _] => repo.starts_with("models--"),
            _ => false,
        }
    }

    /// The SHA-256 that the entry of `blobs` is named by to which the file at `path` leads. Small files are named by a
    /// git hash of 40 digits, and those of the shared store by Xet's: neither is one.
    pub(super) fn sha256_of(&self, path: &Path) -> Option<String> {
        let own = self.own.as_deref()?;
        let mut at = path.to_owned();
        for _ in 0..=MAX_LINKS {
            let folder = fs::canonicalize(at.parent()?).ok()?;
            if folder == own {
                let name = at.file_name()?.to_str()?;
                return is_hex(name, 64).then(|| name.to_owned());
            }
            at = folder.join(fs::read_link(&at).ok()?);
        }
        None
    }
}

/// The same of a file named by itself, wherever it leads. `real`: its path without links.
pub(super) fn sha256_of_single(path: &Path, real: &Path) -> Option<String> {
    let of_snapshot = || {
        let folder = std::path::absolute(path).ok()?.parent()?.to_owned();
        Blobs::of(&folder, &fs::canonicalize(&folder).ok()?)?.sha256_of(path)
    };
    let of_blob = || {
        let (folder, name) = (real.parent()?, real.file_name()?.to_str()?);
        let is_blob = repo_name(folder.parent()?).is_some() && folder.file_name()? == "blobs";
        (is_blob && is_hex(name, 64)).then(|| name.to_owned())
    };
    of_snapshot().or_else(of_blob)
}

/// The repository's folder `models--ORG--NAME` of a snapshot, or of a folder in one.
fn repo_of(path: &Path) -> Option<&Path> {
    in_snapshot(path).map(|(repo, _)| repo)
}

/// The same, and where `path` lies below its `snapshots`: the commit, and folders.
pub(super) fn in_snapshot(path: &Path) -> Option<(&Path, &Path)> {
    path.ancestors().find_map(|snapshot| {
        let snapshots = snapshot.parent()?;
        let is_named = snapshots.file_name()? == "snapshots"
            && matches!(snapshot.components().next_back(), Some(Component::Normal(_)));
        let repo = is_named.then(|| snapshots.parent())?.filter(|repo| repo_name(repo).is_some())?;
        Some((repo, path.strip_prefix(snapshots).ok()?))
    })
}

fn repo_name(repo: &Path) -> Option<&str> {
    repo.file_name()?.to_str().filter(|name| name.starts_with("models--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_repository_of_a_snapshot_and_of_folders_in_it() {
        let repo = Some(Path::new("/c/models--a--b"));
        assert_eq!(repo_of(Path::new("/c/models--a--b/snapshots/0123")), repo);
        assert_eq!(repo_of(Path::new("/c/models--a--b/snapshots/0123/part/deep")), repo);
        let inside = in_snapshot(Path::new("/c/models--a--b/snapshots/0123/part"));
        assert_eq!(inside.map(|(_, inside)| inside), Some(Path::new("0123/part")));
        assert_eq!(repo_of(Path::new("/c/models--a--b/snapshots")), None);
        assert_eq!(repo_of(Path::new("/c/a--b/snapshots/0123")), None);
        assert_eq!(repo_of(Path::new("/c/models--a--b/blobs")), None);
    }
}
