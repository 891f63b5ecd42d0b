//! The layers of ARCHITECTURE.md, held against what every file under src imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The table of the section "Layers", from top to bottom: the modules of each layer.
fn layers() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Layers\n")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let name = Regex::new(r"`([a-z_]+)/?`").unwrap();
    let modules = |row: &str| name.captures_iter(row).map(|found| found[1].to_owned()).collect();
    // The Python package lies outside of src.
    rows.filter(|row| !row.contains("`bindings/python`")).map(modules).collect()
}

/// Every file under `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.flatten().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The top module that a file is of.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(root("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Module → the modules it names, each with a file that does. Comments and unit tests may name any.
fn imports() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let path = Regex::new(r"\b(?:crate|mgpack)::(\w+|\{)").unwrap();
    let mut imports: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in sources(&root("src")) {
        let module = module_of(&file);
        // The front page and what is at the top may name all.
        if ["lib", "main", "cli"].contains(&module.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        let after = rest.split_once("\n}\n").map_or("", |(_, after)| after);
        let code = before.lines().chain(after.lines()).filter(|line| !line.trim_start().starts_with("//"));
        let entry = imports.entry(module.clone()).or_default();
        for found in code.flat_map(|line| path.captures_iter(line)) {
            let named = match &found[1] {
                "Error" | "Explain" | "Result" => "error",
                "Bundle" => "bundle",
                "{" => panic!("{}: a list of modules, which this test cannot read", file.display()),
                named => named,
            };
            if named != module {
                entry.insert(named.to_owned(), file.clone());
            }
        }
    }
    imports
}

#[test]
fn the_table_of_layers_has_every_module_once() {
    let listed: Vec<String> = layers().into_iter().flatten().collect();
    let mut sorted = listed.clone();
    sorted.sort();
    let mut modules: BTreeSet<String> = sources(&root("src")).iter().map(|file| module_of(file)).collect();
    assert!(modules.remove("lib"));
    assert!(modules.len() > 30, "{modules:?}");
    assert_eq!(sorted, modules.into_iter().collect::<Vec<_>>());
}

#[test]
fn imports_point_down_only() {
    let layers = layers();
    let rank = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let imports = imports();
    let mut seen = 0;
    for (module, named) in &imports {
        for (other, file) in named {
            seen += 1;
            assert!(rank(other) >= rank(module), "{} names `{other}`, which is above it", file.display());
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}

#[test]
fn modules_of_one_layer_use_each_other_in_one_direction() {
    let imports = imports();
    for layer in layers() {
        let mut left: BTreeSet<&String> = layer.iter().collect();
        while !left.is_empty() {
            let uses_none_left = |module: &&&String| {
                imports.get(**module).is_none_or(|named| !named.keys().any(|other| left.contains(other)))
            };
            let last = left.iter().find(uses_none_left).copied();
            let last = last.unwrap_or_else(|| panic!("among {left:?} each uses another"));
            left.remove(last);
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    for file in sources(&root("src")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{}", file.display());
    }
}

/// There were 33, and nobody could say what of them was for callers.
#[test]
fn the_library_shows_four_modules() {
    let text = fs::read_to_string(root("src/lib.rs")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let shown =
        lines.windows(2).filter(|pair| pair[1].starts_with("pub mod ") && pair[0] != "#[doc(hidden)]");
    let names: Vec<&str> = shown.map(|pair| pair[1].trim_end_matches(';')).collect();
    assert_eq!(names, ["pub mod error", "pub mod load", "pub mod progress", "pub mod verbs"]);
}

/// A load in one stage ended with "in 1 stages", a cut file with "1 bytes are missing". What agrees with a count is
/// chosen in one place.
#[test]
fn no_text_counts_by_itself() {
    let nouns = "bytes|codes|dimensions|elements|files|findings|GPUs|layers|modules|parts|shards|stages|tensors|threads|tokens|values";
    let counts = Regex::new(&format!(r"\{{[^{{}}]*\}} (?:more )?(?:{nouns})\b")).unwrap();
    let chosen = Regex::new(r#"== 1 \{ "s?" \} else"#).unwrap();
    let mut texts = 0;
    for file in sources(&root("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let (code, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        texts += code.matches("counted(").count() + code.matches("agreed(").count();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!counts.is_match(line), "{}: `size::counted` for {line}", file.display());
            assert!(!chosen.is_match(line), "{}: `size::agreed` for {line}", file.display());
        }
    }
    assert!(texts > 40, "only {texts} texts with a count were found");
}

/// `Finding` was what `verify` found and what `doctor` found: a reader had to look at the imports.
#[test]
fn no_two_public_types_share_a_name() {
    // Named anew with the modules that they are of.
    let yet = ["Model", "Output", "Sizes", "Totals", "Workload"];
    let named = Regex::new(r"(?m)^pub (?:struct|enum) (\w+)").unwrap();
    let mut types: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in sources(&root("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for name in named.captures_iter(&text).map(|found| found[1].to_owned()) {
            if let Some(other) = types.insert(name.clone(), file.clone()) {
                assert!(yet.contains(&&*name), "`{name}`: {} and {}", other.display(), file.display());
            }
        }
    }
    assert!(types.len() > 100, "only {} types were found", types.len());
}
