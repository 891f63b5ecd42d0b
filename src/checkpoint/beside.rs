//! Weights that lie beside a model's and are not the model: an adapter, the same weights under Mistral's own names, the
//! same in another type. Judged by names alone. Pure. Carries out formats/bundle.md, "Checkpoints".

use std::collections::HashSet;

use super::SkipReason;
use super::needed::without_shard_number;
use super::shards::is_torch_weights;

/// The set of weights that peft writes, whatever the model.
const ADAPTER: &str = "adapter_model";

/// What makes loaders attach the adapter beside it.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// True for the weights of an adapter.
pub(super) fn is_adapter(name: &str) -> bool {
    File::of(name).is_some_and(|file| file.set == ADAPTER)
}

/// The sets of weights among a folder's files.
pub(super) struct Sets {
    /// Sets without a variant, each with whether they are torch files.
    plain: HashSet<(String, bool)>,
    /// The kinds (torch or not) in which there is a set that may be the model's: no adapter, and not consolidated.
    models: HashSet<bool>,
    has_consolidated: bool,
}

impl Sets {
    /// The sets among `names`, which are those of the folder itself.
    pub(super) fn among<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut sets = Self { plain: HashSet::new(), models: HashSet::new(), has_consolidated: false };
        for file in names.into_iter().filter_map(File::of) {
            if is_consolidated(file.set) {
                sets.has_consolidated = true;
            } else if file.set != ADAPTER {
                sets.models.insert(file.is_torch);
            }
            if file.variant.is_none() {
                sets.plain.insert((file.set.to_owned(), file.is_torch));
            }
        }
        sets
    }

    /// Why the file `name` is not of the model; `None` where it is, or is all that there is.
    pub(super) fn why_not(&self, name: &str) -> Option<SkipReason> {
        let of_adapter = || (self.has_consolidated || !self.models.is_empty()).then_some(SkipReason::Adapter);
        if name == ADAPTER_CONFIG {
            return of_adapter();
        }
        let Some(file) = File::of(name) else {
            return is_index_of_variant(name).then_some(SkipReason::Variant);
        };
        if file.set == ADAPTER {
            of_adapter()
        } else if is_consolidated(file.set) {
            self.models.contains(&file.is_torch).then_some(SkipReason::Consolidated)
        } else {
            let has_plain = self.plain.contains(&(file.set.to_owned(), file.is_torch));
            (file.variant.is_some() && has_plain).then_some(SkipReason::Variant)
        }
    }
}

/// The name of a file of weights, in its parts.
struct File<'a> {
    set: &'a str,
    /// `fp16` of `model.fp16.safetensors`.
    variant: Option<&'a str>,
    is_torch: bool,
}

impl<'a> File<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (stem, is_torch) = match name.strip_suffix(".safetensors") {
            Some(stem) => (stem, false),
            None if is_torch_weights(name) || name == "adapter_model.bin" => (name.rsplit_once('.')?.0, true),
            None => return None,
        };
        // transformers puts a shard's number behind the variant, diffusers once put it before.
        let stem = without_shard_number(stem);
        let (set, variant) = match stem.split_once('.') {
            Some((set, variant)) if is_variant(variant) => (without_shard_number(set), Some(variant)),
            _ => (stem, None),
        };
        Some(Self { set, variant, is_torch })
    }
}

/// A word such as `fp16`, and no number of a part (`consolidated.00`).
fn is_variant(word: &str) -> bool {
    !word.contains('.') && word.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_consolidated(set: &str) -> bool {
    set == "consolidated" || set.starts_with("consolidated.") || set.starts_with("consolidated-")
}

/// True for `model.safetensors.index.fp16.json`.
fn is_index_of_variant(name: &str) -> bool {
    let split = name.strip_suffix(".json").and_then(|rest| rest.rsplit_once(".index."));
    split.is_some_and(|(file, variant)| {
        (file.ends_with(".safetensors") || file.ends_with(".bin"))
            && is_variant(variant)
            && !file.contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(names: &[&'a str]) -> Vec<&'a str> {
        let sets = Sets::among(names.iter().copied());
        names.iter().copied().filter(|name| sets.why_not(name).is_none()).collect()
    }

    #[test]
    fn the_plain_set_is_the_model_and_a_variant_is_not() {
        assert_eq!(read(&["model.fp16.safetensors", "model.safetensors"]), ["model.safetensors"]);
        let shards = ["model-00001-of-00001.safetensors", "model.fp16-00001-of-00002.safetensors"];
        assert_eq!(read(&shards), ["model-00001-of-00001.safetensors"]);
        let older = ["model-00001-of-00002.bf16.safetensors", "model.safetensors"];
        assert_eq!(read(&older), ["model.safetensors"]);
        let torch = ["pytorch_model.bin", "pytorch_model.fp16.bin"];
        assert_eq!(read(&torch), ["pytorch_model.bin"]);
        // A variant of another set is no variant of this one, and a part has a number.
        let others = ["model.safetensors", "vae.fp16.safetensors", "model.1.safetensors"];
        assert_eq!(read(&others), others);
    }

    #[test]
    fn what_is_all_that_there_is_is_the_model() {
        for all in [
            &["model.fp16.safetensors"][..],
            &["consolidated.00.pth", "consolidated.01.pth"],
            &["consolidated-00001-of-00002.safetensors"],
            &["adapter_config.json", "adapter_model.safetensors", "training_args.bin"],
        ] {
            assert_eq!(read(all), all);
        }
    }

    #[test]
    fn an_adapter_and_consolidated_weights_are_not_the_model_beside_it() {
        let all =
            ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "pytorch_model.bin"];
        assert_eq!(read(&all), ["pytorch_model.bin"]);
        let mistral =
            ["consolidated-00001-of-00002.safetensors", "consolidated.safetensors", "model.safetensors"];
        assert_eq!(read(&mistral), ["model.safetensors"]);
        let llama = ["consolidated.00.pth", "pytorch_model-00001-of-00001.bin"];
        assert_eq!(read(&llama), ["pytorch_model-00001-of-00001.bin"]);
    }
}
