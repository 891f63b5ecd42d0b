//! The text a person reads in a bundle: the model card.

use crate::size::counted;
use std::fmt::Write as _;

use super::{Conversion, generic};
use crate::device_map::Profile;
use crate::environment::MGM;
use crate::family::Match;
use crate::gpu_models;
use crate::program::shell_word;

/// README.md of a bundle: what it is, how to load it, how to check it. `folder`: the name of its folder, as a program that
/// runs beside it writes it.
pub(super) fn model_card(conversion: &Conversion, folder: &str) -> String {
    let name = &conversion.name;
    let word = shell_word(folder);
    let totals = conversion.plan.totals();
    let source = match (&conversion.located.hub_id, &conversion.located.revision) {
        (Some(id), Some(revision)) => format!("`{id}` at revision `{revision}`"),
        _ => "a local checkpoint (digests of its files are in `mgpack.json`)".to_owned(),
    };
    let holds = match conversion.subject.mgm() {
        Some(_) => "weights, tokenizer, configuration and everything they need at load",
        None => "the weights of a checkpoint and its other files",
    };
    let mut card = format!(
        "# {name}\n\n\
         An mgpack bundle: {holds}, in one folder.\n\n\
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
    if let Some(gpus) = gpu_models::scheme_gpus(conversion.plan.scheme) {
        let _ = writeln!(card, "{gpus}\n");
    }
    match conversion.subject.mgm() {
        Some(found) => {
            // The towers' paths are relative to the working directory of the process.
            let _ = write!(
                card,
                "```sh\npip install -r requirements.txt\n\
                 pip install --no-deps {MGM}  # or a checkout of it on PYTHONPATH\n```\n\n\
                 ```python\n\
                 import json, os\n\
                 os.chdir({})  # this folder: MGM looks for the towers from here\n\
                 from mgm.model.builder import load_pretrained_model\n\
                 device_map = json.load(open(\"device_map.json\"))\n\
                 tokenizer, model, image_processor, context_len = load_pretrained_model(\n    \
                     \".\", None, model_name=\"{name}\", device_map=device_map)\n\
                 # conversation template: {}\n\
                 ```\n",
                serde_json::Value::from(folder),
                found.family.conversation.template
            );
            card.push_str(&mgm_notes(name, &word, found));
        }
        None => card.push_str(&generic::load_section(conversion, folder)),
    }
    card.push_str(&room(&conversion.profiles));
    let _ = write!(
        card,
        "\n## Check\n\n```sh\nmgpack verify {word}\nsha256sum -c --strict SHA256SUMS   # inside the folder\n```\n"
    );
    card
}

/// How long a prompt may be on the GPUs that device maps were planned for.
fn room(profiles: &[Profile]) -> String {
    let lines = profiles.iter().filter_map(|profile| {
        let told = profile.memory.longest_context.as_ref()?.told();
        let batch = profile.memory.batch.filter(|batch| *batch > 1);
        let batch = batch.map(|batch| format!(", {batch} at a time")).unwrap_or_default();
        Some(format!("- {}: {told}{batch}\n", profile.memory.table))
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\n## Memory\n\nThe longest prompt, its answer included and images apart, that a device map holds:\n\n{lines}"
    )
}

/// What MGM's own loader needs and does not say.
fn mgm_notes(name: &str, folder: &str, found: &Match) -> String {
    let template = &found.family.conversation.template;
    let infers = &found.family.conversation.cli_infers;
    let torch = found.family.requirement("torch").and_then(|need| gpu_models::torch_gpus(&need.pin));
    let gpus = torch.map_or_else(String::new, |gpus| format!("{gpus} "));
    let mode = if template == infers { String::new() } else { format!(" --conv-mode {template}") };
    format!(
        "\nMGM chooses the model's class by a name: `model_name` above, and on its command line the last part of \
         `--model-path`. Under a name without `mgm` the model loads and fails in its first forward pass; under one of \
         another class it may load with random weights and answer nonsense. In this folder its name is not `.` but\n\n\
         ```sh\ncd {folder}\npython -m mgm.serve.cli --model-path \"$PWD\"{mode} --image-file IMAGE\n```\n\n\
         If the folder has another name than `{name}`, link it by that name and give MGM the link. Leave `load_8bit` off: an \
         int8 bundle says so in config.json.\n\n\
         MGM's loader needs an NVIDIA GPU. {gpus}Without one give it an fp16 or bf16 bundle and `device=\"cpu\"`, with a torch that \
         computes in half precision on a CPU: 2.0.1 does not, 2.13.0 does. `mgpack.load` of mgpack's Python package loads \
         under any name and from any working directory.\n"
    )
}
