//! The texts a person reads in a bundle: the model card and requirements.txt.

use std::fmt::Write as _;

use super::Conversion;
use crate::family::Match;
use crate::manifest::Requirement;
use crate::scheme::Scheme;

/// What a bundle of no known family needs, by its scheme.
pub(super) fn generic_requirements(scheme: Scheme) -> Vec<Requirement> {
    let need = |package: &str, pin: &str, range: &str, reason: &str| Requirement {
        package: package.into(),
        pin: pin.into(),
        range: range.into(),
        reason: reason.into(),
        source: "this project's tests, which load such a bundle with these versions".into(),
    };
    let mut list =
        vec![need("transformers", "5.23.0", ">=5.23.0", "the classes that the bundle is loaded with")];
    match scheme {
        Scheme::Bf16 | Scheme::Fp16 => {}
        Scheme::BnbInt8 => {
            list.push(need("bitsandbytes", "0.50.2", ">=0.50.2", "reads serialized int8 (weight, SCB)"));
            list.push(need("accelerate", "1.15.0", ">=1.15.0", "transformers asks for it with bitsandbytes"));
        }
        Scheme::W8A8 | Scheme::W8A16 => {
            list.push(need("compressed-tensors", "0.20.0", ">=0.20.0", "reads the int8 layout"));
        }
    }
    list
}

/// requirements.txt: one pin a line with its reason above it.
pub(super) fn requirements_txt(requirements: &[Requirement], family: Option<&Match>) -> String {
    let of = family.map_or("this bundle".to_owned(), |found| format!("family {}", found.family.name));
    let mut text =
        format!("# The environment of {of}. One environment per family: no single set serves all.\n");
    for requirement in requirements {
        let Requirement { package, pin, range, reason, .. } = requirement;
        if package == "python" {
            let _ = writeln!(text, "# python {pin} (works: {range}): {reason}");
        } else {
            let _ = writeln!(text, "# works: {range}; {reason}\n{package}=={pin}");
        }
    }
    text
}

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
         - Scheme: `{}`; {} of {} tensors stored as integer codes\n\
         - Tensors: {} bytes, from {} bytes in the checkpoint\n\n",
        conversion.plan.scheme.name(),
        totals.quantized,
        totals.source_tensors,
        totals.bytes,
        totals.source_bytes,
    );
    card.push_str("## Load\n\n```sh\npip install -r requirements.txt\n```\n\n```python\n");
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
            let _ = write!(
                card,
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\
                 model = AutoModelForCausalLM.from_pretrained(\"{name}\")\n\
                 tokenizer = AutoTokenizer.from_pretrained(\"{name}\")\n"
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
