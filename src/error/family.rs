//! Errors of finding a family by name.

use std::path::PathBuf;

use super::explain::what;
use super::{Explain, Explanation};

/// No family has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum FamilyError {
    /// `known`: every alias in its short form, smallest model first. `nearest`: the one most like it. `folder`: one of a
    /// similar name that exists.
    UnknownAlias { alias: String, nearest: Option<String>, known: Vec<String>, folder: Option<PathBuf> },
    /// The family has no such variant that is published, by `source_of_fact`.
    NotPublished { alias: String, source_of_fact: String },
}

impl Explain for FamilyError {
    fn explain(&self) -> Explanation {
        match self {
            Self::UnknownAlias { alias, nearest, known, folder } => {
                let near = nearest.as_ref().map(|nearest| format!("`{nearest}`"));
                let folder = folder.as_ref().map(|folder| format!("the folder `{}`", folder.display()));
                let meant = match (near, folder) {
                    (Some(near), Some(folder)) => Some(format!("{near}, or {folder}")),
                    (near, folder) => near.or(folder),
                };
                what(format!("no model has the alias `{alias}`"))
                    .why(format!("the aliases are {}", known.join(", ")))
                    .help(match meant {
                        Some(meant) => format!("did you mean {meant}?"),
                        None => "give an alias, a hub id such as YanweiLi/MGM-7B, or a folder".to_owned(),
                    })
            }
            Self::NotPublished { alias, source_of_fact } => what(format!("`{alias}` is not published"))
                .why(source_of_fact)
                .help("give the folder of your own checkpoint; its config.json says which variant it is"),
        }
    }
}
