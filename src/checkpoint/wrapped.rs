//! Names with the prefix of a wrapper in which the model was when its state dict was saved.
//!
//! No class of a model has tensors of these names; loaders strip them. Carries out formats/bundle.md, "Checkpoints".

use super::{Notice, SourceTensor};
use crate::tensor::TensorName;

/// What DistributedDataParallel, torch.compile and peft put before every name.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "base_model.model."];

/// Strips what every name begins with, wrapper by wrapper. The order of the names stays.
pub(super) fn strip(tensors: &mut [SourceTensor]) -> Option<Notice> {
    let mut stripped = String::new();
    while let Some(prefix) = common(tensors, &stripped) {
        stripped.push_str(prefix);
    }
    if stripped.is_empty() {
        return None;
    }
    let bare = |tensor: &SourceTensor| TensorName::new(tensor.name.as_str().strip_prefix(&*stripped)?);
    let names: Option<Vec<TensorName>> = tensors.iter().map(bare).collect();
    for (tensor, name) in tensors.iter_mut().zip(names?) {
        tensor.name = name;
    }
    Some(Notice::Wrapped { prefix: stripped })
}

/// The prefix that every name has behind `before`, with a name behind it.
fn common(tensors: &[SourceTensor], before: &str) -> Option<&'static str> {
    let has = |tensor: &SourceTensor, prefix: &str| {
        let rest = tensor.name.as_str().strip_prefix(before).and_then(|rest| rest.strip_prefix(prefix));
        rest.is_some_and(|rest| !rest.is_empty())
    };
    let all = |prefix: &&str| !tensors.is_empty() && tensors.iter().all(|tensor| has(tensor, prefix));
    PREFIXES.into_iter().find(all)
}
