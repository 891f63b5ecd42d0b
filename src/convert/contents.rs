//! Which files a bundle holds beside its shards: what is copied, replaced, made, or left out, and why.
//!
//! Every file of the checkpoint appears in the manifest's source list with its fate. Pure but for the texts
//! it is given. Carries out formats/bundle.md, "Files".

use serde_json::json;

use crate::coding;
use crate::error::{ConvertError, Result};
use crate::json_text::{self, JsonText};
use crate::manifest::{
    DEVICE_MAP_NAME, MANIFEST_NAME, REQUIREMENTS_NAME, SIGNATURE_NAME, SUMS_NAME, SourceFate,
};
use crate::names::BundlePath;
use crate::plan::Plan;

/// Names that mgpack itself writes at the top of a bundle.
const OWN: [&str; 8] = [
    MANIFEST_NAME,
    SUMS_NAME,
    SIGNATURE_NAME,
    "config.json",
    DEVICE_MAP_NAME,
    REQUIREMENTS_NAME,
    "README.md",
    "model.safetensors.index.json",
];

/// Endings of weights in other formats, and of what training leaves behind.
const LEFT_OUT: [(&str, &str); 14] = [
    (".bin", "weights in another format"),
    (".pt", "weights in another format"),
    (".pth", "weights in another format"),
    (".ckpt", "weights in another format"),
    (".pth.tar", "weights in another format"),
    (".h5", "weights in another format"),
    (".msgpack", "weights in another format"),
    (".onnx", "weights in another format"),
    (".onnx_data", "weights in another format"),
    (".gguf", "weights in another format"),
    (".safetensors", "weights that the index does not list"),
    (".bin.index.json", "replaced by the bundle's own index"),
    (".safetensors.index.json", "replaced by the bundle's own index"),
    (".gitattributes", "only for git"),
];

/// What becomes of a file of the checkpoint or of a tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFate {
    /// Its tensors are converted.
    Converted,
    /// Its bytes are copied.
    Copied {
        /// Its path in the bundle.
        target: BundlePath,
    },
    /// The bundle has a file of that name with other content.
    Replaced,
    /// It is not in the bundle.
    LeftOut,
}

impl FileFate {
    /// Its path in the bundle, where it is copied.
    pub fn target(&self) -> Option<&BundlePath> {
        match self {
            Self::Copied { target } => Some(target),
            Self::Converted | Self::Replaced | Self::LeftOut => None,
        }
    }

    /// The same as a manifest records it.
    pub fn record(&self) -> SourceFate {
        match self {
            Self::Converted => SourceFate::Converted,
            Self::Copied { .. } => SourceFate::Copied,
            Self::Replaced => SourceFate::Replaced,
            Self::LeftOut => SourceFate::LeftOut,
        }
    }
}

/// What becomes of a side file of the checkpoint, and a note. `modules`: folders with weights of their own, which are no
/// part of the model's.
pub(super) fn side_file(
    path: &str,
    tower_places: &[String],
    modules: &[String],
) -> Result<(FileFate, Option<&'static str>)> {
    if tower_places.iter().any(|tower| path.starts_with(tower.as_str())) {
        return Ok((FileFate::LeftOut, Some("a tower's place; the tower is listed for itself")));
    }
    if let Some(copy) = card_copy(path) {
        return Ok((copied(&copy)?, Some("kept under another name: the bundle has its own card")));
    }
    if OWN.contains(&path) {
        return Ok((FileFate::Replaced, Some("the bundle has its own")));
    }
    if coding::BESIDE.contains(&path) {
        return Ok((
            FileFate::LeftOut,
            Some("how the checkpoint was quantized; the bundle's weights are decoded"),
        ));
    }
    let is_of_module =
        path.ends_with(".safetensors") && modules.iter().any(|it| path.starts_with(it.as_str()));
    if let Some((_, why)) = LEFT_OUT.iter().find(|(ending, _)| path.ends_with(ending) && !is_of_module) {
        return Ok((FileFate::LeftOut, Some(why)));
    }
    Ok((copied(path)?, None))
}

fn copied(path: &str) -> Result<FileFate> {
    let target = BundlePath::new(path).ok_or_else(|| ConvertError::BadFileName { name: path.to_owned() })?;
    Ok(FileFate::Copied { target })
}

/// Where a card of the checkpoint is kept, since the bundle has its own README.md: `README.md` as
/// `README.source.md`, `README.source.md` (of a checkpoint that was a bundle) as `README.source.source.md`.
fn card_copy(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".md")?;
    let mut rest = stem.strip_prefix("README")?;
    while let Some(shorter) = rest.strip_suffix(".source") {
        rest = shorter;
    }
    rest.is_empty().then(|| format!("{stem}.source.md"))
}

/// What becomes of a file in a tower's folder, which is `folder` in the bundle. `weights`: the file of its weights,
/// `rewritten` if they are written anew.
pub(super) fn tower_file(
    path: &str,
    folder: &str,
    weights: &str,
    rewritten: bool,
) -> Result<(FileFate, Option<&'static str>)> {
    let copied = || copied(&format!("{folder}/{path}"));
    if path == weights && rewritten {
        return Ok((FileFate::Converted, Some("what MGM reads of it, as float16")));
    }
    if path == weights {
        return Ok((copied()?, None));
    }
    Ok(match LEFT_OUT.iter().find(|(ending, _)| path.ends_with(ending)) {
        Some((_, why)) => {
            (FileFate::LeftOut, Some(if *why == "only for git" { why } else { "weights in another format" }))
        }
        None if BundlePath::new(path).is_none() => {
            (FileFate::LeftOut, Some("its name cannot stand in a bundle"))
        }
        None => (copied()?, None),
    })
}

/// The bundle's config.json: the checkpoint's with the towers' paths, the float type and the quantization.
pub(super) fn config(
    text: &str,
    plan: &Plan,
    skip: &[String],
    towers: &[(String, String)],
    dtype: Option<&str>,
) -> Result<String> {
    let bad = |error: serde_json::Error| ConvertError::BadJson {
        file: "config.json".into(),
        why: error.to_string(),
    };
    // How the checkpoint was quantized says nothing of the bundle, wherever it stands.
    let text = json_text::without(text, coding::is_key).map_err(bad)?;
    let mut object = JsonText::parse(&text).map_err(bad)?;
    for (key, path) in towers {
        object.set(key, &json!(path)).map_err(bad)?;
    }
    if let Some(dtype) = dtype {
        // transformers 4.56 renamed the key; whichever the checkpoint has is set, both if it has both.
        let present = ["dtype", "torch_dtype"].map(|key| object.get(key).map(|_| key));
        let keys: Vec<&str> = present.into_iter().flatten().collect();
        for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
            object.set(key, &json!(dtype)).map_err(bad)?;
        }
    }
    if let Some(codec) = plan.scheme.codec() {
        object.set("quantization_config", &codec.quantization_config(skip)).map_err(bad)?;
    }
    Ok(object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_side_file_has_its_fate() {
        let fate =
            |path: &str| side_file(path, &["model_zoo/".into()], &["2_Dense/".into()]).unwrap().0.record();
        assert_eq!(fate("tokenizer.model"), SourceFate::Copied);
        assert_eq!(fate("README.md"), SourceFate::Copied);
        assert_eq!(fate("modeling_custom.py"), SourceFate::Copied);
        assert_eq!(fate("config.json"), SourceFate::Replaced);
        assert_eq!(fate("training_args.bin"), SourceFate::LeftOut);
        assert_eq!(fate("pytorch_model.bin.index.json"), SourceFate::LeftOut);
        assert_eq!(fate("model_zoo/OpenAI/x"), SourceFate::LeftOut);
        assert_eq!(fate("hf_quant_config.json"), SourceFate::LeftOut);
        assert_eq!(fate("older.safetensors"), SourceFate::LeftOut);
        assert_eq!(fate("2_Dense/model.safetensors"), SourceFate::Copied);
        assert_eq!(fate("2_Dense/pytorch_model.bin"), SourceFate::LeftOut);
        assert!(side_file("a\nb", &[], &[]).is_err());
        assert_eq!(
            side_file("README.source.md", &[], &[]).unwrap().0.target().unwrap(),
            "README.source.source.md"
        );
        assert_eq!(side_file("README.other.md", &[], &[]).unwrap().0.target().unwrap(), "README.other.md");
    }
}
