//! The error of asking a Python interpreter.

use std::path::PathBuf;

use super::explain::at;
use super::{Explain, Explanation};

/// The Python interpreter at `path` does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain().what)]
pub struct PythonError {
    pub path: PathBuf,
    pub why: String,
}

impl Explain for PythonError {
    fn explain(&self) -> Explanation {
        at(&self.path, "the Python interpreter does not answer")
            .why(&self.why)
            .help("name an interpreter with ‹python›, or activate an environment")
    }
}
