//! Errors of finding a family by name.

use std::path::PathBuf;

use super::Explain;

/// A family was asked for by a name that does not lead to one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// No family has this alias.
    #[error("no model has the alias `{alias}`")]
    UnknownAlias {
        /// The alias as it was given.
        alias: String,
        /// The known alias that resembles it most, where one does.
        nearest: Option<String>,
        /// Every known alias in its short form, smallest model first.
        known: Vec<String>,
        /// A folder of like name that is here.
        folder: Option<PathBuf>,
    },
    /// The family is known, but this variant of it is not published.
    #[error("`{alias}` is not published")]
    NotPublished {
        /// The alias as it was given.
        alias: String,
        /// Where the facts say so.
        source_of_fact: String,
    },
}

impl Explain for FamilyError {
    fn why(&self) -> Option<String> {
        match self {
            FamilyError::UnknownAlias { known, .. } => Some(format!("the aliases are {}", known.join(", "))),
            FamilyError::NotPublished { source_of_fact, .. } => Some(source_of_fact.clone()),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            FamilyError::UnknownAlias { nearest: Some(nearest), folder: Some(folder), .. } => {
                Some(format!("did you mean `{nearest}`, or the folder `{}`?", folder.display()))
            }
            FamilyError::UnknownAlias { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            FamilyError::UnknownAlias { folder: Some(folder), .. } => {
                Some(format!("did you mean the folder `{}`?", folder.display()))
            }
            FamilyError::UnknownAlias { .. } => {
                Some("give an alias, a hub id such as YanweiLi/MGM-7B, or a folder".to_owned())
            }
            FamilyError::NotPublished { .. } => Some(
                "give the folder of your own checkpoint; its config.json says which variant it is".to_owned(),
            ),
        }
    }
}
