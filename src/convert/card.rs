//! The text a person reads in a bundle: the model card.

use crate::size::counted;
use std::fmt::Write as _;

use super::{Conversion, clients};

/// README.md of a bundle: what it is, how to load it, how to check it.
pub(super) fn model_card(conversion: &Conversion) -> String {
    let name = &conversion.name;
    let totals = conversion.plan.totals();
    let source = match (&conversion.located.hub_id, &conversion.located.revision) {
        (Some(id), Some(revision)) => format!("`{id}` at revision `{revision}`"),
        _ => "a local checkpoint (digests of its files are in `mgpack.json`)".to_owned(),
    };
    let mut card = format!(
        "# {name}\n\n\
         An mgpack bundle: weights, tokenizer, configuration and everything they need at load, in one folder.\n\n\
         - Source: {source}\n\
         - Scheme: `{}`; {} of {} stored as integer codes\n\
         - Tensors: {}, from {} in the checkpoint\n\n",
        conversion.plan.scheme.name(),
        totals.quantized,
        counted(totals.source_tensors, "tensor"),
        counted(totals.bytes, "byte"),
        counted(totals.source_bytes, "byte"),
    );
    card.push_str("## Load\n\n");
    if conversion.family.is_none()
        && let Some(notice) = clients::notice(&conversion.plan, &conversion.config)
    {
        let _ = writeln!(card, "Note: {notice}.\n");
    }
    card.push_str("```sh\npip install -r requirements.txt\n```\n\n```python\n");
    match &conversion.family {
        Some(found) => {
            // The towers' paths are relative to the working directory of the process.
            let _ = write!(
                card,
                "import json, os\n\
                 os.chdir(\"{name}\")  # the towers are found from here\n\
                 from mgm.model.builder import load_pretrained_model\n\
                 device_map = json.load(open(\"device_map.json\"))\n\
                 tokenizer, model, image_processor, context_len = load_pretrained_model(\n    \
                     \".\", None, \"{name}\", device_map=device_map)\n\
                 # conversation template: {}\n",
                found.family.conversation.template
            );
        }
        None => {
            let (model, of_text, reader) = match conversion.config.get("vision_config") {
                Some(_) => ("AutoModelForImageTextToText", "processor", "AutoProcessor"),
                None => ("AutoModelForCausalLM", "tokenizer", "AutoTokenizer"),
            };
            let _ = write!(
                card,
                "from transformers import {model}, {reader}\n\
                 model = {model}.from_pretrained(\"{name}\")\n\
                 {of_text} = {reader}.from_pretrained(\"{name}\")\n"
            );
        }
    }
    card.push_str("```\n");
    if conversion.family.is_some() {
        card.push_str(
            "\nKeep the folder's name: MGM's loader chooses the model class by it. \
             Leave `load_8bit` off: an int8 bundle says so in config.json.\n",
        );
    }
    let _ = write!(
        card,
        "\n## Check\n\n```sh\nmgpack verify {name}\nsha256sum -c --strict SHA256SUMS   # inside the folder\n```\n"
    );
    card
}
