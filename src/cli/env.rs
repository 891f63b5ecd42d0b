//! `mgpack env`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mgpack::family::Family;
use mgpack::locate;
use mgpack::{Result, bundle, environment};
use serde_json::json;

use super::args::EnvArgs;
use super::ui;
use super::write::Writer;

pub(super) fn run(args: &EnvArgs) -> Result<ExitCode> {
    let path = Path::new(&args.bundle);
    let (family, requirements) = if path.exists() || args.bundle.contains('/') {
        let (manifest, _) = bundle::read_manifest(path)?;
        (manifest.model.family, manifest.requirements)
    } else {
        let alias = if locate::is_tiny(&args.bundle) { "7b" } else { args.bundle.as_str() };
        let (family, _) = Family::by_alias(alias)?;
        (family.name.to_string(), environment::requirements(family))
    };
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{family}-env")));
    let inputs: Vec<&Path> = if path.exists() { vec![path] } else { Vec::new() };
    let writer = Writer { inputs: &inputs, force: args.force };
    writer.list(&dir.join("requirements.txt"), &environment::requirements_txt(&requirements, &family))?;
    writer.list(&dir.join("environment.yml"), &environment::environment_yml(&requirements, &family))?;
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
