//! A Python interpreter and the packages installed for it: read from their metadata, or proven by importing them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::PythonError;
use crate::program;
use crate::progress::Stop;

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
bare = []
for name in sys.argv[1:] if metadata else []:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        # A module of one name is looked for and not run.
        from importlib.util import find_spec
        spec = find_spec(name) if name.isidentifier() else None
        if spec is not None and spec.origin:
            bare.append(name)
print(json.dumps({'version': '%d.%d.%d' % sys.version_info[:3], 'packages': found, 'bare': bare}))
";

/// Imports the modules named in its arguments, `module` or `module:what it must have`; the first argument is a folder
/// from which nothing is imported. Before each it prints that it begins, after each what was raised; at the end whether
/// torch sees a GPU. What the packages print goes to stderr.
const IMPORT_SCRIPT: &str = "import sys
import os
away = os.path.realpath(sys.argv[1]) if sys.argv[1] else None
def ours(place):
    real = os.path.realpath(place)
    return place and not (away and (real == away or real.startswith(away + os.sep)))
sys.path[:] = [place for place in sys.path if ours(place)]
import importlib
import json
out = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
def say(**what):
    out.write(json.dumps(what) + '\\n')
    out.flush()
for name in sys.argv[2:]:
    say(begins=name)
    module, _, attribute = name.partition(':')
    try:
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
        say(done=name)
    except BaseException as error:
        say(done=name, raised='%s: %s' % (type(error).__name__, error))
try:
    say(cuda=bool(sys.modules['torch'].cuda.is_available()))
except BaseException:
    pass
";

/// Time for the interpreter to answer; a cold start from a network file system takes seconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Time for all imports: torch and transformers took 40 s from a cold disk.
const IMPORT_LIMIT: Duration = Duration::from_secs(300);

/// An interpreter and what is installed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Python {
    /// The interpreter, as it is started.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// Version of each package asked for that is installed.
    pub packages: BTreeMap<String, String>,
    /// Those asked for that are not installed, and whose module is on the interpreter's path all the same: a folder on
    /// PYTHONPATH.
    pub bare: Vec<String>,
}

/// What came of importing modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imports {
    /// Those that were imported.
    pub good: Vec<String>,
    /// Those that were not, with the exception's type and text, in the order in which they were tried.
    pub failed: Vec<(String, String)>,
    /// Whether torch sees a GPU; `None` where it was not imported.
    pub cuda: Option<bool>,
}

/// The interpreter that would be used: `asked`, that of `VIRTUAL_ENV`, or `python3`.
pub(crate) fn choose(asked: Option<&Path>, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let of_environment =
        || Some(PathBuf::from(var("VIRTUAL_ENV").filter(|dir| !dir.is_empty())?).join("bin/python"));
    asked.map(Path::to_owned).or_else(of_environment).unwrap_or_else(|| "python3".into())
}

impl Python {
    /// Asks the interpreter at `path` for its version and those of `packages`.
    ///
    /// # Errors
    /// [`PythonError`] where it does not start, does not answer, answers something else, or is stopped.
    pub fn read<'a>(
        path: &Path,
        packages: impl IntoIterator<Item = &'a str>,
        stop: &Stop,
    ) -> Result<Self, PythonError> {
        #[derive(Deserialize)]
        struct Answer {
            version: String,
            packages: BTreeMap<String, String>,
            bare: Vec<String>,
        }
        let failed = |why: String| PythonError { path: path.to_owned(), why };
        let mut command = Command::new(path);
        command.args(["-B", "-c", SCRIPT]).args(packages);
        let ran = program::run(&mut command, LIMIT, stop).map_err(|fault| failed(fault.to_string()))?;
        if !ran.status.success() {
            let last = ran.err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(failed(format!("it ended with {}: {last}", ran.status)));
        }
        let answer: Answer = serde_json::from_str(ran.out.trim())
            .map_err(|error| failed(format!("its answer is not what was asked for: {error}")))?;
        Ok(Self {
            path: path.to_owned(),
            version: answer.version,
            packages: answer.packages,
            bare: answer.bare,
        })
    }

    /// Imports `modules` in a process of its own: `module`, or `module:name` where it must also have that name. Nothing in
    /// the folder `away`, a bundle, is imported, also where it is the working directory. No request leaves the machine.
    ///
    /// # Errors
    /// [`PythonError`] where the interpreter does not start, takes more than five minutes, or is stopped.
    pub fn import(&self, modules: &[String], away: &Path, stop: &Stop) -> Result<Imports, PythonError> {
        #[derive(Deserialize)]
        struct Line {
            begins: Option<String>,
            done: Option<String>,
            raised: Option<String>,
            cuda: Option<bool>,
        }
        let mut command = Command::new(&self.path);
        command.args(["-B", "-W", "ignore", "-c", IMPORT_SCRIPT]).arg(away).args(modules);
        command.env("HF_HUB_OFFLINE", "1");
        let ran = program::run(&mut command, IMPORT_LIMIT, stop)
            .map_err(|fault| PythonError { path: self.path.clone(), why: fault.to_string() })?;
        let mut imports = Imports::default();
        let mut begun = None;
        for line in ran.out.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            match (line.done, line.raised) {
                (Some(module), Some(raised)) => imports.failed.push((module, raised)),
                (Some(module), None) => imports.good.push(module),
                (None, _) => {}
            }
            begun = line.begins;
            imports.cuda = imports.cuda.or(line.cuda);
        }
        // A module that takes the interpreter with it has no exception.
        if let Some(module) = begun {
            imports.failed.push((module, format!("no exception: the interpreter ended with {}", ran.status)));
        }
        Ok(imports)
    }

    /// True where `mgm` is installed or on PYTHONPATH.
    pub fn has_mgm(&self) -> bool {
        self.version_of("mgm").is_some() || self.bare.iter().any(|name| name == "mgm")
    }

    /// True for deepspeed where a module of that name replaces it: MGM imports it and calls nothing of it.
    pub fn has_stand_in(&self, package: &str) -> bool {
        package == "deepspeed" && self.bare.iter().any(|name| name == package)
    }

    /// The installed version of a package, or of the interpreter for `python`.
    pub fn version_of(&self, package: &str) -> Option<&str> {
        if package == "python" { Some(&self.version) } else { self.packages.get(package).map(String::as_str) }
    }
}
