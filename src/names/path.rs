//! Paths in a bundle and in a checkpoint, and the name of a bundle.
//!
//! A path of a bundle survives every file system, `sha256sum`, tar and a terminal. Carries out formats/bundle.md, "Names".

use std::collections::BTreeMap;
use std::path::Path;

use super::checked_text;
use crate::legible::is_hidden;

/// Longest path of a bundle, in bytes.
const MAX_PATH_LEN: usize = 1024;
/// Longest part of one: what file systems take.
const MAX_PART_LEN: usize = 255;
/// Longest path in a checkpoint, in bytes: 32 folders with the longest names have below.
const MAX_SOURCE_LEN: usize = 16 << 10;
/// Longest name of a bundle, in bytes: with `.tar.part-0000` it is a file's name.
const MAX_NAME_LEN: usize = 200;
/// Names that Windows keeps for devices, whatever comes after a dot.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
/// Devices that have a number from 0 to 9, or a superscript 1 to 3.
const NUMBERED: [&str; 2] = ["com", "lpt"];

checked_text!(
    /// The path of a file in a bundle: relative, its parts joined by `/`. It may be joined to the bundle's folder.
    BundlePath,
    "a path of a bundle is relative, of plain parts joined by `/` that every file system takes: no `..`, no `\\` or `:`, no control character, no dot or blank at the end of a part, no name of a device",
    |path| path.len() <= MAX_PATH_LEN && path.split('/').all(is_part)
);

checked_text!(
    /// The path of a file in a checkpoint, as a record: it may have a name that no bundle has, and is never opened.
    SourcePath,
    "a path of a checkpoint is relative, of parts joined by `/`: no `..`, no `\\`, no control character",
    |path| path.len() <= MAX_SOURCE_LEN
        && !path.chars().any(|letter| letter.is_control() || letter == '\\')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
);

checked_text!(
    /// The name of a bundle: a file name in a release, and a word in the card's shell and Python lines.
    BundleName,
    "a name of a bundle is at most 200 letters, digits, `.`, `_` and `-`, no dot at either end, no name of a device",
    |name| name.len() <= MAX_NAME_LEN
        && is_part(name)
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
);

impl AsRef<Path> for BundlePath {
    fn as_ref(&self) -> &Path {
        Path::new(self.as_str())
    }
}

/// True for what may be between two `/` of a bundle's path.
fn is_part(part: &str) -> bool {
    // Lossy conversions put U+FFFD for bytes that are no UTF-8: a name with it could mean several files.
    let is_bad =
        |letter: char| is_hidden(letter) || matches!(letter, '\\' | ':' | char::REPLACEMENT_CHARACTER);
    // Also keeps `.` and `..` out. Windows drops what a name ends in, and then means another file.
    !part.is_empty()
        && part.len() <= MAX_PART_LEN
        && !part.ends_with(['.', ' '])
        && !part.chars().any(is_bad)
        && !is_device(part)
}

/// True for a name that is a device to Windows: `CON`, `nul.txt`, `Com1.tar.gz`.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end_matches(' ').to_lowercase();
    let is_numbered = |device: &str| {
        let mut rest = stem.strip_prefix(device).unwrap_or_default().chars();
        matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
    };
    DEVICES.contains(&stem.as_str()) || NUMBERED.iter().any(|device| is_numbered(device))
}

/// Two paths of one bundle that cannot lie beside each other everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Clash<'a> {
    /// They differ by letter case alone, or not at all.
    Case(&'a str, &'a str),
    /// The second would lie in the first, which is a file.
    Inside(&'a str, &'a str),
}

/// The first clash among the paths of a bundle, compared after lower-casing, their folders too; `None` where all can lie
/// side by side.
pub(crate) fn clash<'a>(paths: impl IntoIterator<Item = &'a str>) -> Option<Clash<'a>> {
    let mut folded = BTreeMap::new();
    for path in paths {
        if let Some(first) = folded.insert(path.to_lowercase(), path) {
            return Some(Clash::Case(first, path));
        }
    }
    // Lower-cased folder → the folder, and a file in it.
    let mut folders: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (lower, path) in &folded {
        let ends = lower.match_indices('/').zip(path.match_indices('/'));
        for ((of_lower, _), (of_path, _)) in ends {
            let (Some(lower), Some(folder)) = (lower.get(..of_lower), path.get(..of_path)) else { continue };
            if let Some(file) = folded.get(lower) {
                return Some(Clash::Inside(file, path));
            }
            let (other, first) = *folders.entry(lower).or_insert((folder, path));
            if other != folder {
                return Some(Clash::Case(first, path));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_bundle_means_one_file_on_every_system() {
        for good in [
            "config.json",
            "model_zoo/OpenAI/clip-vit-large-patch14-336/config.json",
            ".hidden",
            "größe 模型.txt",
            "console.json",
            "com.json",
            "com10.json",
            "lpt",
            "a.con",
            "می\u{200c}خواهم",
        ] {
            assert!(BundlePath::new(good).is_some(), "{good:?}");
        }
        let long = "a".repeat(256);
        let deep = ["a"; 600].join("/");
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a/.",
            "..",
            "../x",
            "a/../b",
            "a\\b",
            "C:x",
            "a\nb",
            "a\0b",
            "a\u{7f}",
            "a\u{85}b",
            "gpj.\u{202e}exe",
            "a\u{2066}b",
            "a\u{feff}",
            "a\u{fffd}b",
            "a.",
            "a./b",
            "a ",
            "a /b",
            "...",
            "CON",
            "con.txt",
            "Aux.tar.gz",
            "x/NUL",
            "nul /x",
            "com1",
            "LPT9.json",
            "COM¹",
            &long,
            &deep,
        ] {
            assert!(BundlePath::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_bundle_name_is_safe_in_a_path_a_shell_and_a_string() {
        for good in ["MGM-34B-HD-int8", "all-MiniLM_L6.v2-w8a16"] {
            assert!(BundleName::new(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "..",
            ".x",
            "x.",
            "../../evil",
            "a/b",
            "a b",
            "a\nb",
            "a\"); print(1) #",
            "é",
            "con",
            "NUL.x",
            &"a".repeat(201),
        ] {
            assert!(BundleName::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_of_a_checkpoint_may_be_odd_and_stays_below_it() {
        for good in ["CON", "a:b", "gpj.\u{202e}exe", "tower:model_zoo/x/y.bin", "a."] {
            assert!(SourcePath::new(good).is_some(), "{good:?}");
        }
        for bad in ["", "/x", "../x", "a/../../x", "a\u{1b}[31m", "a\\b"] {
            assert!(SourcePath::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn paths_that_one_system_takes_for_one_clash() {
        assert_eq!(clash(["a/B", "a/c", "b"]), None);
        assert_eq!(clash(["a/x", "a/y", "a/z/1", "a/z/2"]), None);
        assert_eq!(clash(["README.md", "x", "readme.md"]), Some(Clash::Case("README.md", "readme.md")));
        assert_eq!(clash(["É", "é"]), Some(Clash::Case("É", "é")));
        assert_eq!(clash(["a", "A/b"]), Some(Clash::Inside("a", "A/b")));
        assert_eq!(clash(["a", "a!", "a/b"]), Some(Clash::Inside("a", "a/b")));
        assert!(matches!(clash(["a/x", "A/y"]), Some(Clash::Case(..))));
        assert!(matches!(clash(["a/q/x", "a/r", "a/Q/y"]), Some(Clash::Case(..))));
    }
}
