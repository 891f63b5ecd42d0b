//! The error of asking a Python interpreter.

use std::path::PathBuf;

use super::Explain;

/// The Python interpreter does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Python interpreter does not answer")]
pub struct PythonError {
    /// The interpreter, as it was started.
    pub path: PathBuf,
    /// What happened.
    pub why: String,
}

impl Explain for PythonError {
    fn place(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }

    fn why(&self) -> Option<String> {
        Some(self.why.clone())
    }

    fn help(&self) -> Option<String> {
        Some("name an interpreter with ‹python›, or activate an environment".into())
    }
}
