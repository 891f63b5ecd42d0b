//! What a mistyped path may have meant.
//!
//! Looks at the names in folders and at nothing in them.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Most entries of a folder that are looked at: a hub's cache or a home has hundreds.
const MAX_ENTRIES: usize = 10_000;
/// Likeness from which a name counts as the other mistyped: `minlm` and `minilm` have 0.83.
const RESEMBLES: f64 = 0.7;

/// A path that is there and resembles `path`, which is not: each part that is missing is replaced by the entry that is
/// most like it. `None` where a part has none.
pub(super) fn near(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        let next = found.join(part);
        match part {
            _ if next.exists() => found = next,
            Component::Normal(name) => {
                let name = most_like(&found, name.to_str()?)?;
                found.push(name);
            }
            _ => return None,
        }
    }
    Some(found)
}

/// The folder in `dir` whose name is most like `name`.
fn most_like(dir: &Path, name: &str) -> Option<String> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let entries = fs::read_dir(dir).ok()?.take(MAX_ENTRIES).flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let like = names.map(|other| (likeness(name, &other), other)).filter(|(like, _)| *like >= RESEMBLES);
    // Of two that are equally like, always the same.
    let best = like.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    best.map(|(_, other)| other)
}

/// From 0 to 1. Names with other digits are not alike: `Qwen2-7B` is not `Qwen2-72B` mistyped, but another model.
fn likeness(a: &str, b: &str) -> f64 {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    if digits(a) == digits(b) {
        strsim::normalized_damerau_levenshtein(&a.to_lowercase(), &b.to_lowercase())
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_part_is_replaced_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["ck/minilm", "ck/qwen2-7b", "models/prod/a"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("ck/minilm.txt"), "a file is no checkpoint").unwrap();
        let near = |path: &str| {
            let found = near(&dir.path().join(path))?;
            Some(found.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
        };
        for (path, meant) in [
            ("ck/minlm", Some("ck/minilm")),
            ("kc/minilm", None),
            ("cks/minilm", None),
            ("model/prod/a", Some("models/prod/a")),
            ("models/prdo/a", Some("models/prod/a")),
            ("ck/MiniLM", Some("ck/minilm")),
            ("ck/qwen2-72b", None),
            ("ck/bert", None),
            ("ck/minlm/../minlm", Some("ck/minilm/../minilm")),
        ] {
            assert_eq!(near(path).as_deref(), meant, "{path}");
        }
    }
}
