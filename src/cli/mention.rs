//! The library's mentions of options and calls as the command line writes them: flags and commands.

use mgpack::mention::{Mention, Setting, reword};
use serde_json::Value;

use crate::program::shell_word;

/// The text with `--force` for ‹force=true›, and with `mgpack pull org/model` for ‹pull("org/model")›.
pub(super) fn spoken(text: &str) -> String {
    reword(text, |mention| match mention {
        Mention::Option(setting) => flag(setting),
        Mention::Call { verb, arguments, settings } => {
            let arguments = arguments.iter().map(word);
            let words = std::iter::once(verb.clone()).chain(arguments).chain(settings.iter().map(flag));
            format!("`mgpack {}`", words.collect::<Vec<_>>().join(" "))
        }
    })
}

/// The flag of an option, and its value.
fn flag(setting: &Setting) -> String {
    let Setting { name, value } = setting;
    match (name.as_str(), value.as_ref().map(|value| (value, value.as_str()))) {
        ("output", None) => "-o".to_owned(),
        ("threads", None) => "-j".to_owned(),
        ("stats", Some((Value::Bool(false), _))) => "--no-stats".to_owned(),
        ("scheme", Some((_, Some(word @ ("int8" | "fp16" | "bf16"))))) => format!("--{word}"),
        (_, None | Some((Value::Bool(_), _))) => format!("--{}", name.replace('_', "-")),
        (_, Some((value, _))) => format!("--{} {}", name.replace('_', "-"), word(value)),
    }
}

/// A value as a shell reads it.
fn word(value: &Value) -> String {
    shell_word(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory as _;
    use regex::Regex;

    use super::super::args::Cli;
    use super::*;

    /// Every file of the library, without its unit tests and comments.
    fn library() -> Vec<(PathBuf, String)> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { below(&path, found) } else { found.push(path) }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        below(&root, &mut files);
        let rust = files.into_iter().filter(|path| path.extension().is_some_and(|name| name == "rs"));
        let of_library = rust.filter(|path| !path.starts_with(root.join("cli")));
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (path, lines.collect::<Vec<_>>().join("\n"))
        };
        of_library.map(read).collect()
    }

    #[test]
    fn options_are_flags_and_calls_are_commands() {
        for (text, want) in [
            ("give ‹output›, or ‹force=true›", "give -o, or --force"),
            ("‹context=2048› or ‹allow_cpu=5›", "--context 2048 or --allow-cpu 5"),
            ("‹scheme=\"int8\"›, ‹scheme=\"W8A8\"› or ‹stats=false›", "--int8, --scheme W8A8 or --no-stats"),
            ("fewer ‹threads›, ‹max_memory=\"64MiB\"›", "fewer -j, --max-memory 64MiB"),
            ("‹pull(\"a/b\", revision=\"v1\")›", "`mgpack pull a/b --revision v1`"),
            ("‹verify(\"it's here\")› lists", "`mgpack verify 'it'\\''s here'` lists"),
            ("‹inspect()›", "`mgpack inspect`"),
        ] {
            assert_eq!(spoken(text), want);
        }
    }

    /// Errors that spoke of flags were shown to callers from Python, who have no flags.
    #[test]
    fn the_library_speaks_of_no_flag() {
        // Commands of other programs, and findings of `doctor`, which is a command only.
        let own = [
            "program",
            "python",
            "devices/nvidia_smi",
            "environment",
            "convert/card",
            "convert/snippet",
            "convert/generic",
            "doctor",
            "report/",
            "verbs/report",
            "family/folder",
            "error/io",
        ];
        let flag = Regex::new(r#"["`( ](--[a-z][a-z0-9-]*|-[a-z])\b"#).unwrap();
        let literal = Regex::new(r#""(?:[^"\\]|\\[\s\S])*""#).unwrap();
        let mut literals = 0;
        for (path, code) in library() {
            if own.iter().any(|part| path.to_string_lossy().contains(&format!("/src/{part}"))) {
                continue;
            }
            for found in literal.find_iter(&code) {
                literals += 1;
                // Styles of drawings have names of their own form: `--ink:`.
                let text = found.as_str();
                let is_flag = flag.find(text).filter(|_| !text.contains("--ink"));
                assert_eq!(is_flag.map(|flag| flag.as_str()), None, "{}: {text}", path.display());
            }
        }
        assert!(literals > 1000, "only {literals} literals were found");
    }

    #[test]
    fn every_option_and_verb_that_the_library_mentions_exists() {
        let command = Cli::command();
        let known = |word: &str| {
            let is_it = |arg: &clap::Arg| {
                let short = arg.get_short().map(|short| format!("-{short}"));
                let long = arg.get_long().map(|long| format!("--{long}"));
                [short, long].into_iter().flatten().any(|name| name == word)
            };
            command.get_subcommands().any(|verb| verb.get_arguments().any(is_it))
        };
        // Those that are made by `mention::option` and `mention::call`.
        let made = Regex::new(r#"mention::(option|call)\(\s*"([a-z_]+)""#).unwrap();
        // A value that is filled in when the text is made.
        let filled = Regex::new(r"\{[a-z_]*\}").unwrap();
        let mut seen = Vec::new();
        for (path, code) in library() {
            if path.ends_with("mention.rs") {
                continue;
            }
            let code = filled.replace_all(&code, "1").replace("\\\"", "\"");
            let brackets = code.matches('‹').count();
            let found = mgpack::mention::mentions(&code);
            assert_eq!(found.len(), brackets, "{}: a mention that cannot be read", path.display());
            seen.extend(found);
            for call in made.captures_iter(&code) {
                let name = call[2].to_owned();
                seen.push(match &call[1] {
                    "option" => Mention::Option(Setting { name, value: Some("value".into()) }),
                    _ => Mention::Call { verb: name, arguments: Vec::new(), settings: Vec::new() },
                });
            }
        }
        assert!(seen.len() > 40, "only {} mentions were found", seen.len());
        let first = |setting: &Setting| flag(setting).split(' ').next().unwrap_or_default().to_owned();
        for mention in &seen {
            match mention {
                Mention::Option(setting) => assert!(known(&first(setting)), "{setting:?}"),
                Mention::Call { verb, settings, .. } => {
                    assert!(command.find_subcommand(verb).is_some(), "{verb}");
                    assert!(settings.iter().all(|setting| known(&first(setting))), "{settings:?}");
                }
            }
        }
    }
}
