//! Which of a repository's files belong to its checkpoint, by their names. Pure.
//!
//! The weights in one format, safetensors before .bin, sharded before whole; config, tokenizer and texts.

use super::beside::Sets;
use super::index::{INDEX_NAME, TORCH_INDEX_NAME};

/// Endings of a checkpoint's files that are no weights and belong to it.
const TEXT_ENDINGS: [&str; 6] = [".json", ".txt", ".model", ".md", ".jinja", ".tiktoken"];

/// Beginnings of names that belong to it whatever they end in.
const LEGAL: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// Files of which a checkpoint that can tokenize has at least one.
const TOKENIZERS: [&str; 6] =
    ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model"];

/// The files of a checkpoint among `paths`: texts in the order given, then the preferred weights.
pub(crate) fn checkpoint_files<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    let weights = weight_sets(paths).into_iter().next().unwrap_or_default();
    files_with(paths, weights)
}

/// The files of a checkpoint among `paths` that are not there. A set of weights that has begun counts as the
/// one that is wanted, unless a preferred one has begun too.
pub(crate) fn missing_files<'a>(paths: &[&'a str], is_there: impl Fn(&str) -> bool) -> Vec<&'a str> {
    let mut sets = weight_sets(paths);
    let has_begun = |set: &Vec<&str>| {
        let index = set.first().and_then(|shard| index_of(shard));
        set.iter().any(|path| is_there(path)) || index.is_some_and(&is_there)
    };
    let begun = sets.iter().position(has_begun).unwrap_or_default();
    let weights = if sets.is_empty() { vec!["model.safetensors"] } else { sets.swap_remove(begun) };
    files_with(paths, weights).into_iter().filter(|path| !is_there(path)).collect()
}

/// True where a file of a tokenizer is among `paths`.
pub(crate) fn has_tokenizer<'a>(mut paths: impl Iterator<Item = &'a str>) -> bool {
    paths.any(|path| TOKENIZERS.contains(&path) || path.ends_with(".tiktoken"))
}

fn files_with<'a>(paths: &[&'a str], weights: Vec<&'a str>) -> Vec<&'a str> {
    let index = weights.first().and_then(|shard| index_of(shard));
    let wanted = |path: &str| {
        let text = TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending))
            || LEGAL.iter().any(|start| path.starts_with(start));
        // The index of another format, or of another number of files, is not taken.
        let other_index = path.ends_with(".index.json") && index != Some(path);
        !path.contains('/') && !path.starts_with('.') && text && !other_index
    };
    paths.iter().copied().filter(|path| wanted(path)).chain(weights.iter().copied()).collect()
}

/// The ways in which `paths` have the weights, the preferred first.
fn weight_sets<'a>(paths: &[&'a str]) -> Vec<Vec<&'a str>> {
    let sets = Sets::among(paths.iter().copied().filter(|path| !path.contains('/')));
    let among = |stem: &str, ending: &str, sharded: bool| -> Vec<&'a str> {
        let fits = |path: &&str| {
            !path.contains('/')
                && !path.starts_with('.')
                && path.starts_with(stem)
                && path.ends_with(ending)
                && is_shard(path) == sharded
                && sets.why_not(path).is_none()
                && !path.starts_with("consolidated")
                && !path.starts_with("training_args")
        };
        paths.iter().copied().filter(fits).collect()
    };
    let ways = [
        ("model-", ".safetensors", true),
        ("model.safetensors", ".safetensors", false),
        ("", ".safetensors", true),
        ("", ".safetensors", false),
        ("pytorch_model-", ".bin", true),
        ("pytorch_model.bin", ".bin", false),
        ("pytorch_model.", ".bin", false),
    ];
    let found = ways.into_iter().map(|(stem, ending, sharded)| among(stem, ending, sharded));
    found.filter(|paths| !paths.is_empty()).collect()
}

/// Name of the index that lists a shard; `None` for weights in one file.
fn index_of(path: &str) -> Option<&'static str> {
    is_shard(path).then_some(if path.ends_with(".bin") { TORCH_INDEX_NAME } else { INDEX_NAME })
}

/// A file's name without its ending, and without `-00001-of-00003` at its end.
pub(super) fn without_shard_number(stem: &str) -> &str {
    shard_number_of(stem).map_or(stem, |(rest, _)| rest)
}

fn is_shard(path: &str) -> bool {
    shard_number(path).is_some()
}

/// Stem and ending of `STEM-00001-of-00003.ENDING`, and the 3.
fn shard_number(path: &str) -> Option<(&str, &str, u32)> {
    let (rest, ending) = path.rsplit_once('.')?;
    let (stem, count) = shard_number_of(rest)?;
    Some((stem, ending, count))
}

fn shard_number_of(name: &str) -> Option<(&str, u32)> {
    let (first, count) = name.rsplit_once("-of-")?;
    let (stem, number) = first.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && digits(number)).then_some((stem, count.parse().ok()?))
}

/// All shards of the set that `path` is one of by its name, at most `limit`.
pub(crate) fn sibling_shards(path: &str, limit: u32) -> Vec<String> {
    let Some((stem, ending, count)) = shard_number(path) else { return Vec::new() };
    let name = |number| format!("{stem}-{number:05}-of-{count:05}.{ending}");
    (1..=count.min(limit)).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            checkpoint_files(&all),
            [
                "config.json",
                "model.safetensors.index.json",
                "tokenizer.model",
                "LICENSE",
                "model-00001-of-00001.safetensors"
            ]
        );
        assert_eq!(checkpoint_files(&["model.safetensors", "pytorch_model.bin"]), ["model.safetensors"]);
        let beside = ["adapter_model.safetensors", "model.fp16.safetensors", "model.safetensors"];
        assert_eq!(checkpoint_files(&beside), ["model.safetensors"]);
        assert_eq!(
            checkpoint_files(&["adapter_model.safetensors", "pytorch_model.bin"]),
            ["pytorch_model.bin"]
        );
        assert_eq!(
            checkpoint_files(&[
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00001.bin",
                "training_args.bin"
            ]),
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]
        );
    }

    #[test]
    fn weights_that_are_there_in_another_format_are_not_missing() {
        let all = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"];
        let missing = |there: &[&str]| missing_files(&all, |path| there.contains(&path));
        assert_eq!(missing(&["config.json", "pytorch_model.bin", "tokenizer.json"]), [""; 0]);
        assert_eq!(missing(&["config.json", "pytorch_model.bin"]), ["tokenizer.json"]);
        assert_eq!(missing(&["config.json", "tokenizer.json"]), ["model.safetensors"]);
        assert_eq!(missing(&[]), ["config.json", "tokenizer.json", "model.safetensors"]);
        // An index makes loaders look for its shards.
        let all = [INDEX_NAME, "model-00001-of-00001.safetensors", "pytorch_model.bin"];
        let there = |path: &str| path == INDEX_NAME || path == "pytorch_model.bin";
        assert_eq!(missing_files(&all, there), ["model-00001-of-00001.safetensors"]);
    }

    #[test]
    fn a_shard_tells_its_siblings() {
        let all = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(sibling_shards(all[1], 10), all);
        assert_eq!(sibling_shards("model-1-of-4294967295.bin", 3).len(), 3);
        assert!(sibling_shards("model.safetensors", 10).is_empty());
    }
}
