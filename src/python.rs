//! A Python interpreter and the packages installed for it, read from their metadata: no package is imported.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::PythonError;
use crate::program;

/// Prints the interpreter's version and the versions of the packages named in its arguments, as JSON. Uses the
/// standard library only, and not the working directory.
const SCRIPT: &str = "import sys
sys.path[:] = [place for place in sys.path if place]
import json
try:
    from importlib import metadata
except ImportError:
    metadata = None
found = {}
for name in sys.argv[1:] if metadata else []:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps({'version': '%d.%d.%d' % sys.version_info[:3], 'packages': found}))
";

/// Time for the interpreter to answer; a cold start from a network file system takes seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// An interpreter and what is installed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Python {
    /// The interpreter, as it is started.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// Version of each package asked for that is installed.
    pub packages: BTreeMap<String, String>,
}

/// The interpreter that would be used: `asked`, that of `VIRTUAL_ENV`, or `python3`.
pub fn choose(asked: Option<&Path>, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let of_environment =
        || Some(PathBuf::from(var("VIRTUAL_ENV").filter(|dir| !dir.is_empty())?).join("bin/python"));
    asked.map(Path::to_owned).or_else(of_environment).unwrap_or_else(|| "python3".into())
}

impl Python {
    /// Asks the interpreter at `path` for its version and those of `packages`.
    ///
    /// # Errors
    /// [`PythonError`] where it does not start, does not answer, or answers something else.
    pub fn read<'a>(path: &Path, packages: impl IntoIterator<Item = &'a str>) -> Result<Self, PythonError> {
        #[derive(Deserialize)]
        struct Answer {
            version: String,
            packages: BTreeMap<String, String>,
        }
        let failed = |why: String| PythonError { path: path.to_owned(), why };
        let mut command = Command::new(path);
        command.args(["-B", "-c", SCRIPT]).args(packages);
        let ran = program::run(&mut command, LIMIT).map_err(|fault| failed(fault.to_string()))?;
        if !ran.status.success() {
            let last = ran.err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(failed(format!("it ended with {}: {last}", ran.status)));
        }
        let answer: Answer = serde_json::from_str(ran.out.trim())
            .map_err(|error| failed(format!("its answer is not what was asked for: {error}")))?;
        Ok(Self { path: path.to_owned(), version: answer.version, packages: answer.packages })
    }

    /// The installed version of a package, or of the interpreter for `python`.
    pub fn version_of(&self, package: &str) -> Option<&str> {
        if package == "python" { Some(&self.version) } else { self.packages.get(package).map(String::as_str) }
    }
}
