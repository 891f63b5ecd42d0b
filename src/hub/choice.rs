//! Which files of a repository are needed. Pure.
//!
//! A checkpoint: its weights in one format, safetensors before .bin, sharded before whole; config, tokenizer
//! and texts. A tower: what MGM opens.

use super::listing::{Listed, Listing};
use crate::family::Tower;

/// Endings of a checkpoint's files that are no weights and belong to it.
const TEXT_ENDINGS: [&str; 6] = [".json", ".txt", ".model", ".md", ".jinja", ".tiktoken"];

/// Beginnings of names that belong to it whatever they end in.
const LEGAL: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// Files of a checkpoint.
pub(super) fn checkpoint(listing: &Listing) -> Vec<Listed> {
    let weights = weights(listing);
    let sharded_elsewhere = |path: &str| {
        // The index of the format, or of the number of files, that is not taken.
        path.ends_with(".index.json")
            && !weights.iter().any(|weight| {
                let ending = weight.path.rsplit('.').next().unwrap_or_default();
                path.ends_with(&format!(".{ending}.index.json")) && is_shard(&weight.path)
            })
    };
    let wanted = |file: &&Listed| {
        let path = file.path.as_str();
        let text = TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending))
            || LEGAL.iter().any(|start| path.starts_with(start));
        !path.contains('/') && text && !sharded_elsewhere(path)
    };
    listing.files.iter().filter(wanted).chain(weights.iter().copied()).cloned().collect()
}

fn weights(listing: &Listing) -> Vec<&Listed> {
    let among = |stem: &str, ending: &str, sharded: bool| -> Vec<&Listed> {
        let fits = |file: &&Listed| {
            let path = file.path.as_str();
            !path.contains('/')
                && path.starts_with(stem)
                && path.ends_with(ending)
                && is_shard(path) == sharded
                && !path.starts_with("consolidated")
                && !path.starts_with("training_args")
        };
        listing.files.iter().filter(fits).collect()
    };
    let ways = [
        ("model-", ".safetensors", true),
        ("model.", "safetensors", false),
        ("", ".safetensors", true),
        ("", ".safetensors", false),
        ("pytorch_model-", ".bin", true),
        ("pytorch_model.", "bin", false),
    ];
    let found = ways.into_iter().map(|(stem, ending, sharded)| among(stem, ending, sharded));
    found.into_iter().find(|files| !files.is_empty()).unwrap_or_default()
}

/// `…-00001-of-00003.…`
fn is_shard(path: &str) -> bool {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(first, count)| {
        digits(count) && first.rsplit_once('-').is_some_and(|(_, number)| digits(number))
    })
}

/// Files of one of MGM's towers: those it opens, its weights once, and the texts about its licence.
pub(super) fn tower(listing: &Listing, tower: &Tower) -> Vec<Listed> {
    let is_listed = |name: &&String| listing.files.iter().any(|file| file.path == **name);
    let mut weights: Vec<&String> = tower.weights_one_of.iter().filter(is_listed).collect();
    // safetensors before others, else in the family's order.
    weights.sort_by_key(|name| !name.ends_with(".safetensors"));
    let weight = weights.first().map(|name| name.as_str());
    let wanted = |file: &&Listed| {
        let path = file.path.as_str();
        tower.files.iter().any(|name| name == path)
            || Some(path) == weight
            || path == "README.md"
            || path.starts_with("LICENSE")
    };
    listing.files.iter().filter(wanted).cloned().collect()
}

/// True where `pattern`, in which `*` stands for any run of characters, fits the whole of `path`.
pub fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::super::listing::BlobHash;
    use super::*;

    fn chosen(paths: &[&str]) -> Vec<String> {
        let listed =
            |path: &&str| Listed { path: (*path).to_owned(), size: 1, hash: BlobHash::Git("0".repeat(40)) };
        let listing = Listing { commit: "a".repeat(40), files: paths.iter().map(listed).collect() };
        checkpoint(&listing).into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn weights_are_taken_once_and_safetensors_first() {
        let all = [
            "config.json",
            "pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00001.bin",
            "model.safetensors.index.json",
            "model-00001-of-00001.safetensors",
            "model.safetensors",
            "consolidated.safetensors",
            "training_args.bin",
            "optimizer.pt",
            "model.gguf",
            "onnx/model.onnx",
            "tokenizer.model",
            "LICENSE",
            ".gitattributes",
            "tf_model.h5",
        ];
        assert_eq!(
            chosen(&all),
            [
                "config.json",
                "model.safetensors.index.json",
                "tokenizer.model",
                "LICENSE",
                "model-00001-of-00001.safetensors"
            ]
        );
        assert_eq!(chosen(&["model.safetensors", "pytorch_model.bin"]), ["model.safetensors"]);
        assert_eq!(
            chosen(&[
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00001.bin",
                "training_args.bin"
            ]),
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]
        );
    }

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, path) in [("*.json", "a.json"), ("a*c*e", "abcde"), ("a", "a"), ("*", ""), ("*a*", "a")]
        {
            assert!(fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [("*.json", "a.jsonl"), ("a*", "ba"), ("a", "ab"), ("aa*aa", "aaa")] {
            assert!(!fits(pattern, path), "{pattern} {path}");
        }
    }
}
