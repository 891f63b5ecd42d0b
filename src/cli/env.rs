//! `mgpack env`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mgpack::error::ConvertError;
use mgpack::family::Family;
use mgpack::{Result, bundle, environment};
use serde_json::json;

use super::args::EnvArgs;
use super::ui;

pub(super) fn run(args: &EnvArgs) -> Result<ExitCode> {
    let path = Path::new(&args.bundle);
    let (family, requirements) = if path.exists() || args.bundle.contains('/') {
        let (manifest, _) = bundle::read_manifest(path)?;
        (manifest.model.family, manifest.requirements)
    } else {
        let (family, _) = Family::by_alias(&args.bundle)?;
        (family.name.to_string(), environment::requirements(family))
    };
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{family}-env")));
    std::fs::create_dir_all(&dir).map_err(|cause| failed(&dir, cause))?;
    write(&dir.join("requirements.txt"), &environment::requirements_txt(&requirements, &family))?;
    write(&dir.join("environment.yml"), &environment::environment_yml(&requirements, &family))?;
    let [pip, uv] = environment::install_lines(&requirements);
    if args.json {
        super::print_json(&json!({
            "path": dir, "family": family, "requirements": requirements, "pip": pip, "uv": uv,
        }))?;
    } else {
        let dir = dir.display();
        ui::print(&format!(
            "{dir}/requirements.txt\n{dir}/environment.yml\n\nin {dir}, with one of:\n  {pip}\n  {uv}\n  \
             conda env create -f environment.yml\n"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a new file; one that is there already must hold the same text.
fn write(path: &Path, text: &str) -> Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map_err(|cause| failed(path, cause)),
        Err(_) if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) => Ok(()),
        Err(cause) => Err(failed(path, cause)),
    }
}

fn failed(path: &Path, cause: std::io::Error) -> mgpack::Error {
    ConvertError::Io { doing: "writing the environment", path: path.to_owned(), cause }.into()
}
