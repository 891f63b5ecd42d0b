//! Errors of finding a checkpoint in the hub's cache.

use std::path::PathBuf;

use super::Explain;
use super::shown::{listed, shown, shown_bare, shown_path};
use crate::mention;

/// A checkpoint could not be found in the hub's cache, or is not complete there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// No environment value says where the hub's cache is.
    #[error("the folder of the hub's cache is not known")]
    NoCacheFolder,
    /// Not the name of a repository.
    #[error("{} is not the name of a model repository", shown(repo_id))]
    BadRepoId {
        /// As it was given.
        repo_id: String,
    },
    /// Not the name of a revision.
    #[error("{} is not the name of a revision", shown(revision))]
    BadRevision {
        /// As it was given.
        revision: String,
    },
    /// The repository, or this revision of it, is not in the cache.
    #[error("`{repo_id}` is not in the hub's cache{}", at_revision(revision.as_deref()))]
    NotInCache {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// What was looked for.
        path: PathBuf,
    },
    /// A file in `refs/` does not hold a commit.
    #[error("the cache does not know the commit of `{repo_id}`{}", at_revision(revision.as_deref()))]
    BadRef {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// The file.
        path: PathBuf,
        /// The start of what it holds.
        text: String,
    },
    /// A download was interrupted, or only some files were fetched.
    #[error("the download of `{repo_id}` is not complete: {} missing", are_missing(files))]
    IncompleteSnapshot {
        /// `org/name`.
        repo_id: String,
        /// The revision asked for; `None` for the default branch.
        revision: Option<String>,
        /// The snapshot's folder.
        path: PathBuf,
        /// The missing files, relative to it, sorted.
        files: Vec<String>,
    },
}

impl Explain for CacheError {
    fn place(&self) -> Option<String> {
        match self {
            Self::NotInCache { path, .. }
            | Self::BadRef { path, .. }
            | Self::IncompleteSnapshot { path, .. } => Some(shown_path(path)),
            Self::NoCacheFolder | Self::BadRepoId { .. } | Self::BadRevision { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        Some(match self {
            Self::NoCacheFolder => "neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set".to_owned(),
            Self::BadRepoId { .. } => {
                "it must be `org/name` of letters, digits, `-`, `_` and `.`, without `..` and `--`".to_owned()
            }
            Self::BadRevision { .. } => {
                "it must be a branch, a tag or a commit of 40 hexadecimal digits".to_owned()
            }
            Self::NotInCache { path, revision, .. } => {
                let mut why = format!("`{}` does not exist", shown_path(path));
                if revision.as_deref().is_some_and(looks_like_short_commit) {
                    why.push_str("; a commit must be given with all 40 digits");
                }
                why
            }
            Self::BadRef { text, .. } => format!("the file holds {}, not a commit", shown(text)),
            Self::IncompleteSnapshot { files, .. } => {
                const MOST: usize = 10;
                let names: Vec<String> = files.iter().take(MOST).map(|file| shown_bare(file)).collect();
                let more = files.len().saturating_sub(MOST);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("the snapshot in the cache lacks {}{more}", names.join(", "))
            }
        })
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoCacheFolder => "set HF_HUB_CACHE to the folder, or give the checkpoint's path".to_owned(),
            Self::BadRepoId { .. } => "write it as on the hub: YanweiLi/MGM-34B".to_owned(),
            Self::BadRevision { .. } => "leave it out for the branch `main`".to_owned(),
            Self::NotInCache { repo_id, revision, .. }
            | Self::BadRef { repo_id, revision, .. }
            | Self::IncompleteSnapshot { repo_id, revision, .. } => {
                download_line(repo_id, revision.as_deref())
            }
        })
    }
}

/// The call that fetches a repository.
fn download_line(repo_id: &str, revision: Option<&str>) -> String {
    let revision: Vec<_> = revision.map(|revision| ("revision", revision)).into_iter().collect();
    mention::call("pull", repo_id, &revision)
}

fn at_revision(revision: Option<&str>) -> String {
    revision.map_or_else(String::new, |revision| format!(" at revision `{revision}`"))
}

fn are_missing(files: &[String]) -> String {
    format!("{} {}", listed(files), if files.len() == 1 { "is" } else { "are" })
}

fn looks_like_short_commit(revision: &str) -> bool {
    (4..40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_download_line_with_and_without_a_revision() {
        assert_eq!(download_line("a/b", None), "‹pull(\"a/b\")›");
        assert_eq!(download_line("a/b", Some("v1")), "‹pull(\"a/b\", revision=\"v1\")›");
    }
}
