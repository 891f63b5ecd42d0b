//! `mgpack env`.

use std::path::{Path, PathBuf};

use mgpack::family::Family;
use mgpack::locate;
use mgpack::verbs::Writer;
use mgpack::{Result, bundle, environment};
use serde_json::json;

use super::args::EnvArgs;
use super::{Verdict, ui, work};

pub(super) fn run(args: &EnvArgs) -> Result<Verdict> {
    let path = Path::new(&args.bundle);
    let is_there = locate::is_there(path)?;
    let (family, requirements) = if is_there || args.bundle.contains('/') {
        let (manifest, _) = bundle::read_manifest(path)?;
        (manifest.model.family, manifest.requirements)
    } else {
        let alias = if locate::is_tiny(&args.bundle) { "7b" } else { args.bundle.as_str() };
        let (family, _) = Family::by_alias(alias)?;
        (family.name.clone(), environment::requirements(family))
    };
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{family}-env")));
    let inputs: Vec<&Path> = if is_there { vec![path] } else { Vec::new() };
    let work = work(&ui::Notes);
    let writer = Writer { inputs: &inputs, force: args.force };
    writer.list(
        &dir.join("requirements.txt"),
        &environment::requirements_txt(&requirements, &family),
        work,
    )?;
    writer.list(&dir.join("environment.yml"), &environment::environment_yml(&requirements, &family), work)?;
    let [pip, uv] = environment::install_lines(&requirements);
    if args.json {
        super::print_json(&json!({
            "path": dir, "family": family, "requirements": requirements, "pip": pip, "uv": uv,
        }))?;
    } else {
        let mut screen = ui::Screen::new();
        for name in ["requirements.txt", "environment.yml"] {
            screen.whole(&dir.join(name).display().to_string());
        }
        screen.gap();
        screen.line(&format!("in {}, with one of:", dir.display()));
        for command in [pip.as_str(), uv.as_str(), "conda env create -f environment.yml"] {
            screen.command(None, command);
        }
        screen.print();
    }
    Ok(Verdict::Good)
}
