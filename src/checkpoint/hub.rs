//! The hub's cache on this machine: from a repository's name to a snapshot's folder.
//!
//! Owns where the cache is, its layout `models--ORG--NAME/{refs,snapshots,blobs,trees}`, and whether a snapshot
//! is whole. Downloads nothing and reads no process environment: values are passed in. A commit is checked to be 40 hexadecimal digits
//! before it becomes part of a path, and so are names and revisions. Source: huggingface_hub, constants.py
//! and file_download.py.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::blobs;
use super::files::{MAX_DEPTH, MAX_FILES, is_absent, is_hex, open_regular, read_small, skip_reason};
use super::index::{INDEX_NAME, MAX_INDEX_LEN, TORCH_INDEX_NAME};
use super::needed;
use crate::error::{CacheError, CheckpointError, IoError, Result};

/// The branch of a repository that is meant where none is given.
pub const DEFAULT_REVISION: &str = "main";

/// Longest name of a repository, as the hub has it.
const MAX_REPO_ID_LEN: usize = 96;

/// Longest file in `refs/`: a commit and perhaps a line end.
const MAX_REF_LEN: u64 = 1024;

/// Longest listing of a commit in `trees/`.
const MAX_TREE_LEN: u64 = 64 << 20;

/// The form of those listings that is known.
const TREE_VERSION: u64 = 1;

/// Most shards that a shard's name may count.
const MAX_SHARDS: u32 = 10_000;

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
    /// else `HOME`/.cache/huggingface/hub. A leading `~` is `HOME`. An empty value counts as none.
    ///
    /// # Errors
    /// [`CacheError::NoCacheFolder`] where no value says.
    pub fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let dir = hub_path(&var, "HF_HUB_CACHE")
            .or_else(|| hub_path(&var, "HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hub_home(&var)?.join("hub")))
            .ok_or(CacheError::NoCacheFolder)?;
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
    /// [`CacheError::NotInCache`] where it was never downloaded and
    /// [`CacheError::IncompleteSnapshot`] where the download was interrupted: the help of both is the
    /// command that fetches it. [`CacheError::BadRepoId`], [`CacheError::BadRevision`] for names
    /// that cannot be; [`CacheError::BadRef`] where the cache itself is damaged.
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
            Err(source) => return Err(IoError::new("opening a file of the checkpoint", dir, source).into()),
        }
        asked.check_links(&dir)?;
        Ok(Snapshot { dir, repo_id: repo_id.to_owned(), commit })
    }

    /// Finds a downloaded checkpoint, whole: config.json, its weights in one format, and all else that belongs to
    /// it, as far as the cache says what that is. The ref and the snapshot exist before the files where another
    /// program downloads, or where only some files were wanted.
    ///
    /// # Errors
    /// As [`HubCache::find`]; [`CacheError::IncompleteSnapshot`] with the files that are missing.
    pub fn find_checkpoint(&self, repo_id: &str, revision: Option<&str>) -> Result<Snapshot> {
        let snapshot = self.find(repo_id, revision)?;
        let missing = snapshot.missing()?;
        if missing.is_empty() {
            return Ok(snapshot);
        }
        Err(snapshot.incomplete(revision, missing).into())
    }
}

impl Snapshot {
    /// The error that `files` are missing.
    pub(crate) fn incomplete(&self, revision: Option<&str>, files: Vec<String>) -> CacheError {
        CacheError::IncompleteSnapshot {
            repo_id: self.repo_id.clone(),
            revision: revision.map(str::to_owned),
            path: self.dir.clone(),
            files,
        }
    }

    /// Files of a checkpoint that the snapshot lacks, sorted.
    fn missing(&self) -> Result<Vec<String>> {
        let paths = match CachedListing::of(&self.dir) {
            Some(listing) => listing.paths,
            None => self.told()?,
        };
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let missing = needed::missing_files(&paths, |path| self.dir.join(path).is_file());
        let missing: BTreeSet<&str> = missing.into_iter().collect();
        Ok(missing.into_iter().map(str::to_owned).collect())
    }

    /// True where the cache has no listing of this commit and the snapshot has no tokenizer. Then only the hub
    /// knows whether there is one: `AutoModel.from_pretrained` fetches the weights alone.
    pub fn may_lack_tokenizer(&self) -> bool {
        let names = self.top_names().unwrap_or_default();
        !needed::has_tokenizer(names.iter().map(String::as_str)) && CachedListing::of(&self.dir).is_none()
    }

    /// All paths that the snapshot itself names: what is there, what an index lists, what a shard's name counts.
    fn told(&self) -> Result<BTreeSet<String>> {
        let mut paths = self.top_names()?;
        for name in paths.clone() {
            let shards = needed::sibling_shards(&name, MAX_SHARDS);
            if let [first, _, ..] = shards.as_slice() {
                paths.insert(if first.ends_with(".bin") { TORCH_INDEX_NAME } else { INDEX_NAME }.to_owned());
            }
            paths.extend(shards);
        }
        for name in [INDEX_NAME, TORCH_INDEX_NAME] {
            paths.extend(self.listed_shards(&self.dir.join(name)).unwrap_or_default());
        }
        paths.insert("config.json".to_owned());
        Ok(paths)
    }

    /// Shards in an index. One that cannot be read lists none: opening the checkpoint says why.
    fn listed_shards(&self, path: &Path) -> Option<BTreeSet<String>> {
        let text = read_small(&open_regular(path, path).ok()?, path, MAX_INDEX_LEN).ok()?;
        let index: Map<String, Value> = serde_json::from_slice(&text).ok()?;
        let shards = index.get("weight_map")?.as_object()?.values();
        Some(shards.filter_map(|shard| shard.as_str().map(str::to_owned)).collect())
    }

    fn top_names(&self) -> Result<BTreeSet<String>> {
        let failed = |source| IoError::new("listing a folder of the checkpoint", self.dir.as_path(), source);
        let entries = fs::read_dir(&self.dir).map_err(failed)?;
        let mut names = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if is_of_checkpoint(&name) {
                names.insert(name.to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
}

/// The files of a commit, as huggingface_hub lists them beside its snapshot: `trees/COMMIT.json` of version 1.
#[derive(Debug)]
pub(super) struct CachedListing {
    paths: BTreeSet<String>,
    /// Where the folder lies in the snapshot: empty, or with `/` at its end.
    below: String,
}

impl CachedListing {
    /// That of the snapshot that `folder` is, or lies in; `None` where there is none of a form that is known.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Tree {
            format_version: u64,
            files: std::collections::BTreeMap<String, IgnoredAny>,
        }
        let (repo, inside) = blobs::in_snapshot(folder)?;
        let mut parts = inside.iter().map(|part| part.to_str());
        let commit = parts.next()??;
        let below = parts.map(|part| Some(format!("{}/", part?))).collect::<Option<String>>()?;
        let path = repo.join("trees").join(format!("{commit}.json"));
        let text = read_small(&open_regular(&path, &path).ok()?, &path, MAX_TREE_LEN).ok()?;
        let tree: Tree = serde_json::from_slice(&text).ok()?;
        let paths = tree.files.into_keys().collect();
        (tree.format_version == TREE_VERSION).then_some(Self { paths, below })
    }

    /// True where the commit has a file at this path below the folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.paths.contains(&format!("{}{path}", self.below))
    }
}

/// True for a name that a file of a checkpoint may have, and no temporary file of another program.
fn is_of_checkpoint(name: &OsStr) -> bool {
    name.to_str().is_none_or(|name| skip_reason(name, false).is_none())
}

/// One question to the cache, as errors repeat it.
struct Asked<'a> {
    repo_id: &'a str,
    revision: Option<&'a str>,
    repo: PathBuf,
}

impl Asked<'_> {
    fn missing(&self, path: PathBuf) -> CacheError {
        CacheError::NotInCache {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path,
        }
    }

    /// The commit that `refs/<revision>` holds. A branch with `/` in its name has folders there.
    fn read_ref(&self, revision: &str) -> Result<String> {
        let path = self.repo.join("refs").join(revision);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(self.missing(path).into()),
            Err(source) if is_absent(&source) => return Err(self.missing(path).into()),
            Err(source) => return Err(IoError::new("opening a file of the checkpoint", path, source).into()),
        }
        let bytes = read_small(&open_regular(&path, &path)?, &path, MAX_REF_LEN)?;
        let text = String::from_utf8_lossy(&bytes);
        let commit = text.trim_end();
        if is_hex(commit, 40) {
            return Ok(commit.to_owned());
        }
        Err(CacheError::BadRef {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path,
            text: commit.chars().take(80).collect(),
        }
        .into())
    }

    /// Every link of a snapshot must lead to something: an interrupted download leaves some that do not.
    fn check_links(&self, dir: &Path) -> Result<()> {
        let mut folders = vec![(dir.to_owned(), 0)];
        let mut dangling = BTreeSet::new();
        let mut seen = 0;
        while let Some((folder, depth)) = folders.pop() {
            let failed =
                |source| IoError::new("listing a folder of the checkpoint", folder.as_path(), source);
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
                seen += 1;
                if seen > MAX_FILES {
                    return Err(
                        CheckpointError::TooManyFiles { path: dir.to_owned(), limit: MAX_FILES }.into()
                    );
                }
                if kind.is_dir() {
                    if depth == MAX_DEPTH {
                        return Err(CheckpointError::TooDeep { path, limit: MAX_DEPTH }.into());
                    }
                    folders.push((path, depth + 1));
                } else if is_of_checkpoint(&entry.file_name())
                    && kind.is_symlink()
                    && fs::metadata(&path).is_err_and(|error| is_absent(&error))
                {
                    dangling.insert(path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned());
                }
            }
        }
        if dangling.is_empty() {
            return Ok(());
        }
        Err(CacheError::IncompleteSnapshot {
            repo_id: self.repo_id.to_owned(),
            revision: self.revision.map(str::to_owned),
            path: dir.to_owned(),
            files: dangling.into_iter().collect(),
        }
        .into())
    }
}

/// The folder that an environment variable names. A leading `~` is `HOME`; an empty value counts as none.
pub(crate) fn hub_path(var: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(var(name).filter(|value| !value.is_empty())?);
    match (path.strip_prefix("~"), var("HOME").filter(|value| !value.is_empty())) {
        (Ok(rest), Some(home)) => Some(Path::new(&home).join(rest)),
        _ => Some(path),
    }
}

/// huggingface_hub's folder: `HF_HOME`, else `XDG_CACHE_HOME`/huggingface, else `HOME`/.cache/huggingface.
pub(crate) fn hub_home(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    hub_path(var, "HF_HOME")
        .or_else(|| Some(hub_path(var, "XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(hub_path(var, "HOME")?.join(".cache/huggingface")))
}

/// Name of a repository's folder in the cache: `models--ORG--NAME`.
///
/// # Errors
/// [`CacheError::BadRepoId`].
pub(crate) fn repo_folder(repo_id: &str) -> Result<String, CacheError> {
    let bad = || CacheError::BadRepoId { repo_id: repo_id.to_owned() };
    let (org, name) = split_repo_id(repo_id).ok_or_else(bad)?;
    Ok(format!("models--{org}--{name}"))
}

/// The revision that is meant, which is safe as a path and in a URL.
///
/// # Errors
/// [`CacheError::BadRevision`].
pub(crate) fn checked_revision(revision: Option<&str>) -> Result<&str, CacheError> {
    let wanted = revision.unwrap_or(DEFAULT_REVISION);
    if is_revision(wanted) {
        return Ok(wanted);
    }
    Err(CacheError::BadRevision { revision: wanted.to_owned() })
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
