//! The Python environment of a family: its packages, and the texts that install them.
//!
//! One environment per family: no single transformers version serves all. Owns requirements.txt, in a bundle and
//! from `mgpack env`, environment.yml and the lines that install them. Carries out formats/bundle.md, "Files".

use std::fmt::Write as _;

use crate::family::Family;
use crate::manifest::RequiredPackage;
use crate::names::{Line, PackageName, Pin, Range};
use crate::scheme::Scheme;

/// Where pip finds MGM itself, which is on no package index, at the commit that the families describe.
pub(crate) const MGM: &str = "git+https://github.com/dvlab-research/MGM@769820c";

/// What a family needs, as its bundles' manifests say it.
pub(crate) fn requirements(family: &Family) -> Vec<RequiredPackage> {
    let of = |requirement: &crate::family::Requirement| RequiredPackage {
        package: requirement.package.clone(),
        pin: requirement.pin.clone(),
        range: requirement.range.clone(),
        reason: requirement.reason.clone(),
        source: Line::escaped(&requirement.source),
    };
    family.requirements.iter().map(of).collect()
}

/// What a bundle of no known family needs, by its scheme.
pub(crate) fn generic_requirements(scheme: Scheme) -> Vec<RequiredPackage> {
    // Words of ours, all of which have their forms: a test below asks for each.
    let need = |package: &str, pin: &str, range: &str, reason: &str| {
        Some(RequiredPackage {
            package: PackageName::new(package)?,
            pin: Pin::new(pin)?,
            range: Range::new(range)?,
            reason: Line::new(reason)?,
            source: Line::new("this project's tests, which load such a bundle with these versions")?,
        })
    };
    let mut list = vec![
        need(
            "python",
            "3.11",
            ">=3.11",
            "the interpreter of the tests; transformers 5 asks for 3.10 or later",
        ),
        need("torch", "2.13.0", ">=2.13.0", "transformers loads weights with it"),
        need("transformers", "5.23.0", ">=5.23.0", "the classes that the bundle is loaded with"),
        need("accelerate", "1.15.0", ">=1.15.0", "transformers places modules on devices with it"),
    ];
    if let Some(codec) = scheme.codec() {
        let package = codec.package();
        list.push(need(package.name, package.pin, package.range, package.reason));
    }
    list.into_iter().flatten().collect()
}

/// requirements.txt: one pin a line with its reason above it. `family`: its name, or `generic`.
pub fn requirements_txt(requirements: &[RequiredPackage], family: &str) -> String {
    let of = if family == "generic" { "this bundle".to_owned() } else { format!("family {family}") };
    let mut text =
        format!("# The environment of {of}. One environment per family: no single set serves all.\n");
    if family != "generic" {
        let _ = writeln!(text, "# MGM itself is on no package index: pip install --no-deps {MGM}");
    }
    for requirement in requirements {
        let RequiredPackage { package, pin, range, reason, .. } = requirement;
        // Writing into a String cannot fail.
        if package == "python" {
            let _ = writeln!(text, "# python {pin} (works: {range}): {reason}");
        } else {
            let _ = writeln!(text, "# works: {range}; {reason}\n{package}=={pin}");
        }
    }
    text
}

/// environment.yml for conda: the interpreter from conda-forge, the packages by pip.
pub(crate) fn environment_yml(requirements: &[RequiredPackage], family: &str) -> String {
    let mut text = format!("name: {family}\nchannels:\n  - conda-forge\ndependencies:\n");
    let _ = writeln!(text, "  - python={}\n  - pip\n  - pip:", python(requirements));
    for requirement in requirements.iter().filter(|requirement| requirement.package != "python") {
        let _ = writeln!(text, "      - {}=={}", requirement.package, requirement.pin);
    }
    text
}

/// The line that makes the environment with pip, and the one with uv, beside a requirements.txt.
pub(crate) fn install_lines(requirements: &[RequiredPackage]) -> [String; 2] {
    let python = python(requirements);
    [
        format!("python{python} -m venv .venv && .venv/bin/pip install -r requirements.txt"),
        format!("uv venv --python {python} && uv pip install -r requirements.txt"),
    ]
}

/// The Python version that is pinned; 3.11 where a bundle names none.
fn python(requirements: &[RequiredPackage]) -> &str {
    requirements
        .iter()
        .find(|requirement| requirement.package == "python")
        .map_or("3.11", |requirement| requirement.pin.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generic_bundle_needs_what_is_written_above() {
        for scheme in Scheme::all() {
            let count = 4 + usize::from(scheme.is_quantized());
            assert_eq!(generic_requirements(scheme).len(), count, "{scheme:?}");
        }
    }
}
