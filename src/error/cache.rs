//! Errors of finding a checkpoint in the hub's cache.

use std::path::PathBuf;

use super::explain::{at, listed, shown, shown_bare, shown_path, what};
use super::{Explain, Explanation};
use crate::mention;

/// A checkpoint could not be found in the hub's cache, or is not complete there.
///
/// `revision`: `None` for the default branch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum CacheError {
    /// No variable names the cache folder.
    NoCacheFolder,
    /// Not the name of a repository.
    BadRepoId { repo_id: String },
    /// Not the name of a branch, a tag or a commit.
    BadRevision { revision: String },
    /// The repository, or this revision of it, is not in the cache. `path`: what was looked for.
    NotInCache { repo_id: String, revision: Option<String>, path: PathBuf },
    /// A file in `refs/` holds `text`, which is no commit.
    BadRef { repo_id: String, revision: Option<String>, path: PathBuf, text: String },
    /// A download was interrupted, or only some files were downloaded. `files`: those that the snapshot at `path` lacks.
    IncompleteSnapshot { repo_id: String, revision: Option<String>, path: PathBuf, files: Vec<String> },
}

impl Explain for CacheError {
    fn explain(&self) -> Explanation {
        match self {
            Self::NoCacheFolder => what("the hub's cache folder is not configured")
                .why("neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set")
                .help("set HF_HUB_CACHE to the folder, or give the checkpoint's path"),
            Self::BadRepoId { repo_id } => {
                what(format!("{} is not the name of a model repository", shown(repo_id)))
                    .why("it must be `org/name` of letters, digits, `-`, `_` and `.`, without `..` and `--`")
                    .help("write it as on the hub: YanweiLi/MGM-34B")
            }
            Self::BadRevision { revision } => {
                what(format!("{} is not the name of a revision", shown(revision)))
                    .why("it must be a branch, a tag or a commit of 40 hexadecimal digits")
                    .help("leave it out for the branch `main`")
            }
            Self::NotInCache { repo_id, revision, path } => {
                let digits = match revision.as_deref().is_some_and(looks_like_short_commit) {
                    true => "; a commit must be given with all 40 digits",
                    false => "",
                };
                at(path, format!("`{repo_id}` is not in the hub's cache{}", at_revision(revision)))
                    .why(format!("`{}` does not exist{digits}", shown_path(path)))
                    .help(download(repo_id, revision))
            }
            Self::BadRef { repo_id, revision, path, text } => {
                at(path, format!("the cache has no commit for `{repo_id}`{}", at_revision(revision)))
                    .why(format!("the file holds {}, not a commit", shown(text)))
                    .help(download(repo_id, revision))
            }
            Self::IncompleteSnapshot { repo_id, revision, path, files } => {
                const MOST: usize = 10;
                let names: Vec<String> = files.iter().take(MOST).map(|file| shown_bare(file)).collect();
                let more = match files.len().saturating_sub(MOST) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let are = if files.len() == 1 { "is" } else { "are" };
                at(
                    path,
                    format!("the download of `{repo_id}` is not complete: {} {are} missing", listed(files)),
                )
                .why(format!("the snapshot in the cache lacks {}{more}", names.join(", ")))
                .help(download(repo_id, revision))
            }
        }
    }
}

/// The call that downloads a repository.
fn download(repo_id: &str, revision: &Option<String>) -> String {
    let revision: Vec<_> = revision.iter().map(|revision| ("revision", revision.as_str())).collect();
    mention::call("pull", repo_id, &revision)
}

fn at_revision(revision: &Option<String>) -> String {
    revision.as_ref().map_or_else(String::new, |revision| format!(" at revision `{revision}`"))
}

fn looks_like_short_commit(revision: &str) -> bool {
    (4..40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_is_the_download_with_and_without_a_revision() {
        assert_eq!(download("a/b", &None), "‹pull(\"a/b\")›");
        assert_eq!(download("a/b", &Some("v1".to_owned())), "‹pull(\"a/b\", revision=\"v1\")›");
    }
}
