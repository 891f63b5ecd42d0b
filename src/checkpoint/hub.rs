//! The hub's cache on this machine: from a repository's name to a snapshot's folder.
//!
//! Owns where the cache is, and its layout `models--ORG--NAME/{refs,snapshots,blobs}`. Downloads nothing
//! and reads no process environment: values are passed in. A commit is checked to be 40 hexadecimal digits
//! before it becomes part of a path, and so are names and revisions. Source: huggingface_hub, constants.py
//! and file_download.py.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::files::{MAX_DEPTH, MAX_FILES, is_absent, is_hex, open_regular, read_small};
use crate::error::{CheckpointError, Result};

/// The branch of a repository that is meant where none is given.
pub const DEFAULT_REVISION: &str = "main";

/// Longest name of a repository, as the hub has it.
const MAX_REPO_ID_LEN: usize = 96;

/// Longest file in `refs/`: a commit and perhaps a line end.
const MAX_REF_LEN: u64 = 1024;

/// The hub's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    dir: PathBuf,
}

/// One downloaded revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its folder, to be opened with [`super::Checkpoint::open`].
    pub dir: PathBuf,
    /// `org/name`.
    pub repo_id: String,
    /// The commit: 40 lower-case hexadecimal digits.
    pub commit: String,
}

impl HubCache {
    /// The cache in the folder `dir`, which holds the `models--ORG--NAME` folders.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The cache that huggingface_hub would use, given the environment: `HF_HUB_CACHE`, else
    /// `HUGGINGFACE_HUB_CACHE` (its old name), else `HF_HOME`/hub, else `XDG_CACHE_HOME`/huggingface/hub,
    /// else `HOME`/.cache/huggingface/hub. A leading `~` stands for `HOME`. An empty value counts as none.
    ///
    /// # Errors
    /// [`CheckpointError::NoCacheFolder`] where no value says.
    ///
    /// ```
    /// # use mgpack::checkpoint::hub::HubCache;
    /// let cache = HubCache::from_env(|name| (name == "HF_HOME").then(|| "/data/hf".into()))?;
    /// assert_eq!(cache.dir(), std::path::Path::new("/data/hf/hub"));
    /// # Ok::<(), mgpack::Error>(())
    /// ```
    pub fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let expanded = |name: &str| {
            let path = set(name)?;
            match (path.strip_prefix("~"), set("HOME")) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path),
            }
        };
        let dir = expanded("HF_HUB_CACHE")
            .or_else(|| expanded("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(expanded("HF_HOME")?.join("hub")))
            .or_else(|| Some(expanded("XDG_CACHE_HOME")?.join("huggingface/hub")))
            .or_else(|| Some(set("HOME")?.join(".cache/huggingface/hub")))
            .ok_or(CheckpointError::NoCacheFolder)?;
        Ok(Self { dir })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Finds a downloaded revision. `revision` is a branch, a tag or a whole commit; `None` means
    /// [`DEFAULT_REVISION`]. A shortened commit is not accepted: another download could change its meaning.
    ///
    /// # Errors
    /// [`CheckpointError::NotInCache`] where it was never downloaded and
    /// [`CheckpointError::IncompleteSnapshot`] where the download was interrupted: the help of both is the
    /// command that fetches it. [`CheckpointError::BadRepoId`], [`CheckpointError::BadRevision`] for names
    /// that cannot be; [`CheckpointError::BadRef`] where the cache itself is damaged.
    pub fn find(&self, repo_id: &str, revision: Option<&str>) -> Result<Snapshot> {
        let repo = self.dir.join(repo_folder(repo_id)?);
        let wanted = checked_revision(revision)?;
        let asked = Asked { repo_id, revision, repo };
        let commit = if is_hex(wanted, 40) { wanted.to_owned() } else { asked.read_ref(wanted)? };
        let dir = asked.repo.join("snapshots").join(&commit);
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(asked.missing(dir).into()),
            Err(source) if is_absent(&source) => return Err(asked.missing(dir).into()),
            Err(source) => return Err(CheckpointError::io(dir, "open", source).into()),
        }
        asked.check_links(&dir)?;
        Ok(Snapshot { dir, repo_id: repo_id.to_owned(), commit })
    }
}

/// One question to the cache, as errors repeat it.
struct Asked<'a> {
    repo_id: &'a str,
    revision: Option<&'a str>,
    repo: PathBuf,
}

impl Asked<'_> {
    fn missing(&self, path: PathBuf) -> CheckpointError {
        CheckpointError::NotInCache {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path,
        }
    }

    /// The commit that `refs/<revision>` holds. A branch with `/` in its name has folders there.
    fn read_ref(&self, revision: &str) -> Result<String, CheckpointError> {
        let path = self.repo.join("refs").join(revision);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(self.missing(path)),
            Err(source) if is_absent(&source) => return Err(self.missing(path)),
            Err(source) => return Err(CheckpointError::io(path, "open", source)),
        }
        let bytes = read_small(&open_regular(&path, &path)?, &path, MAX_REF_LEN)?;
        let text = String::from_utf8_lossy(&bytes);
        let commit = text.trim_end();
        if is_hex(commit, 40) {
            return Ok(commit.to_owned());
        }
        Err(CheckpointError::BadRef {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path,
            text: commit.chars().take(80).collect(),
        })
    }

    /// Every link of a snapshot must lead to something: an interrupted download leaves some that do not.
    fn check_links(&self, dir: &Path) -> Result<(), CheckpointError> {
        let mut folders = vec![(dir.to_owned(), 0)];
        let mut dangling: Option<PathBuf> = None;
        let mut seen = 0;
        while let Some((folder, depth)) = folders.pop() {
            let failed = |source| CheckpointError::io(folder.as_path(), "list", source);
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
                seen += 1;
                if seen > MAX_FILES {
                    return Err(CheckpointError::TooManyFiles { path: dir.to_owned(), limit: MAX_FILES });
                }
                if kind.is_dir() {
                    if depth == MAX_DEPTH {
                        return Err(CheckpointError::TooDeep { path, limit: MAX_DEPTH });
                    }
                    folders.push((path, depth + 1));
                } else if kind.is_symlink() && fs::metadata(&path).is_err_and(|error| is_absent(&error)) {
                    // The first by name, so that the error does not depend on the folder's order.
                    dangling = Some(dangling.map_or(path.clone(), |first| first.min(path)));
                }
            }
        }
        let Some(path) = dangling else { return Ok(()) };
        let file = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        Err(CheckpointError::IncompleteSnapshot {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path: dir.to_owned(),
            file,
        })
    }
}

/// Name of a repository's folder in the cache: `models--ORG--NAME`.
///
/// # Errors
/// [`CheckpointError::BadRepoId`].
pub(crate) fn repo_folder(repo_id: &str) -> Result<String, CheckpointError> {
    let bad = || CheckpointError::BadRepoId { repo_id: repo_id.to_owned() };
    let (org, name) = split_repo_id(repo_id).ok_or_else(bad)?;
    Ok(format!("models--{org}--{name}"))
}

/// The revision that is meant, which is safe as a path and in a URL.
///
/// # Errors
/// [`CheckpointError::BadRevision`].
pub(crate) fn checked_revision(revision: Option<&str>) -> Result<&str, CheckpointError> {
    let wanted = revision.unwrap_or(DEFAULT_REVISION);
    if is_revision(wanted) {
        return Ok(wanted);
    }
    Err(CheckpointError::BadRevision { revision: wanted.to_owned() })
}

/// The two parts of `org/name`, where both are names that the hub allows.
fn split_repo_id(repo_id: &str) -> Option<(&str, &str)> {
    let good = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c != '-' && c != '.');
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let (org, name) = repo_id.split_once('/')?;
    // `--` separates the parts in the cache; `..` could lead out of it.
    let sound = repo_id.len() <= MAX_REPO_ID_LEN && !repo_id.contains("--") && !repo_id.contains("..");
    (sound && good(org) && good(name)).then_some((org, name))
}

/// True for what may name a branch, a tag or a commit and is safe as a path below `refs/` and on a command
/// line: plain parts between single `/`, none beginning with a dot or a dash.
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@' | '=');
    let good = |part: &str| {
        !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..") && part.chars().all(plain)
    };
    text.len() <= 255 && text.split('/').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_names_that_the_hub_allows() {
        assert_eq!(split_repo_id("YanweiLi/MGM-34B"), Some(("YanweiLi", "MGM-34B")));
        let bad = [
            "", "gpt2", "/", "a/", "/b", "a/b/c", "a/..", "../b", "a--b/c", "a/b--c", "a/b.", "-a/b",
            "a/b c", "a\\b/c", "a/b\n", "a/é", "./b",
        ];
        for id in bad {
            assert_eq!(split_repo_id(id), None, "{id:?}");
        }
        assert_eq!(split_repo_id(&format!("a/{}", "b".repeat(95))), None);
    }

    #[test]
    fn takes_only_revisions_that_are_safe_as_a_path() {
        for good in ["main", "refs/pr/1", "v1.0", "feature/a+b", "0123abc"] {
            assert!(is_revision(good), "{good:?}");
        }
        for bad in ["", "/main", "main/", "a//b", "..", "a/../b", ".git", "-x", "a b", "a\\b", "a;b", "a\0"] {
            assert!(!is_revision(bad), "{bad:?}");
        }
    }
}
