//! Tensors that are one in the file under several names, which only torch files can say.
//!
//! transformers leaves a tied head out when it writes safetensors, and ties it again when it loads. So does this:
//! a bundle made from a torch file is then the one made from the safetensors of the same model. Any other
//! sharing is kept as equal tensors. Carries out formats/bundle.md, "Checkpoints".

use std::collections::BTreeMap;

use super::{Notice, SourceTensor};
use crate::config;
use crate::structure::{Role, role_of};

/// Takes tied heads out of `tensors` and returns what is shared. `config`: the text of config.json.
pub(super) fn resolve(tensors: &mut Vec<SourceTensor>, config: Option<&str>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let span = tensor.span().filter(|_| tensor.byte_len > 0);
        if let Some((file, view)) = span.and_then(|span| Some((span.file, span.view.as_deref()?))) {
            let same = (file, view.storage, view.start, &view.strides, tensor.dtype, &tensor.shape);
            groups.entry(same).or_default().push(index);
        }
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    let may_tie = config.is_some_and(may_tie);
    let mut left_out = Vec::new();
    let mut shared: Option<Notice> = None;
    for mut group in groups {
        let name = |index: usize| tensors.get(index).map(|tensor| tensor.name.clone());
        let role = |index: &usize| tensors.get(*index).map(|tensor| role_of(tensor.name.as_str()));
        let embedding = group.iter().find(|index| role(index) == Some(Role::Embedding)).copied();
        if let Some(embedding) = embedding.filter(|_| may_tie) {
            group.retain(|index| {
                let is_head = role(index) == Some(Role::Head);
                if is_head && let (Some(head), Some(embedding)) = (name(*index), name(embedding)) {
                    notices.push(Notice::TiedHead { head, embedding });
                    left_out.push(*index);
                }
                !is_head
            });
        }
        if let [first, second, rest @ ..] = group.as_slice()
            && let (Some(first), Some(second)) = (name(*first), name(*second))
        {
            let more = rest.len() + 1;
            match &mut shared {
                Some(Notice::Shared { count, .. }) => *count += more,
                _ => shared = Some(Notice::Shared { first, second, count: more }),
            }
        }
    }
    let mut index = 0;
    tensors.retain(|_| {
        index += 1;
        !left_out.contains(&(index - 1))
    });
    notices.extend(shared);
    notices
}

/// Whether the class that loads this configuration may tie its head. A file whose head is its embedding was
/// written by a tied model; only a configuration that says otherwise makes a loader expect both.
fn may_tie(config: &str) -> bool {
    serde_json::from_str(config).is_ok_and(|config| config::ties_head(&config) != Some(false))
}
