//! Which shard an output lies in, and where.
//!
//! Shards fill in layer order. A weight and its parts stay together (bitsandbytes looks for `SCB` in the
//! shard of its weight). Inside a shard every tensor starts at a multiple of its element size without holes,
//! which safetensors forbids: outputs of whole multiples of eight bytes come first, in layer order, and the
//! few others follow by falling element size.

use std::collections::{BTreeSet, HashMap};

use super::{Output, Place, Recipe, ShardPlan, TensorPlan};
use crate::error::{PlanError, Result};
use crate::structure::{Role, role_of};
use crate::tensor::element_len;

/// Alignment that lets any element type follow.
const WIDEST: u64 = 8;

/// Gives every output its place, and the shards.
pub(super) fn lay_out(
    tensors: Vec<TensorPlan<()>>,
    recipe: &Recipe,
) -> Result<(Vec<TensorPlan>, Vec<ShardPlan>)> {
    let mut shards: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0u64;
    let mut last_apart = false;
    for (index, tensor) in tensors.iter().enumerate() {
        let apart = recipe.together && matches!(role_of(tensor.name.as_str()), Role::Uni | Role::Tower);
        let len = tensor.outputs.iter().map(|output| output.byte_len).fold(0, u64::saturating_add);
        let full = filled.saturating_add(len) > recipe.max_shard_len && !apart;
        if shards.is_empty() || full || apart != last_apart {
            shards.push(Vec::new());
            filled = 0;
        }
        if let Some(shard) = shards.last_mut() {
            shard.push(index);
        }
        filled = filled.saturating_add(len);
        last_apart = apart;
    }
    let count = shards.len();
    let mut plans = Vec::with_capacity(count);
    let mut names = BTreeSet::new();
    let mut places: HashMap<(usize, usize), Place> = HashMap::new();
    for (number, members) in shards.into_iter().enumerate() {
        let mut outputs: Vec<(usize, usize)> = members
            .iter()
            .flat_map(|&tensor| (0..tensors[tensor].outputs.len()).map(move |output| (tensor, output)))
            .collect();
        // A stable sort: layer order is kept inside each class.
        outputs.sort_by_key(|&(tensor, output)| {
            let output = &tensors[tensor].outputs[output];
            let irregular = !output.byte_len.is_multiple_of(WIDEST);
            (irregular, if irregular { u64::MAX - alignment(output) } else { 0 })
        });
        let mut offset = 0u64;
        for &(tensor, output) in &outputs {
            let written = &tensors[tensor].outputs[output];
            let too_large = || PlanError::TooLarge { name: written.name.to_string() };
            if !names.insert(written.name.as_str()) {
                return Err(PlanError::NameClash { name: written.name.to_string() }.into());
            }
            places.insert((tensor, output), Place { shard: number, offset });
            offset = offset.checked_add(written.byte_len).ok_or_else(too_large)?;
        }
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        plans.push(ShardPlan { name, outputs, data_len: offset });
    }
    drop(names);
    let tensors = tensors.into_iter().enumerate();
    let tensors =
        tensors.map(|(tensor, planned)| placed(planned, |output| places.get(&(tensor, output)).copied()));
    Ok((tensors.collect(), plans))
}

/// The tensor with the places of its outputs. Each has one: every tensor is of a shard.
fn placed(tensor: TensorPlan<()>, place: impl Fn(usize) -> Option<Place>) -> TensorPlan {
    let TensorPlan { name, source, dtype, shape, source_len, fate, skip, outputs } = tensor;
    let outputs = outputs.into_iter().enumerate();
    let outputs = outputs.filter_map(|(at, output)| {
        let Output { name, kind, dtype, shape, byte_len, constant, place: () } = output;
        Some(Output { name, kind, dtype, shape, byte_len, constant, place: place(at)? })
    });
    TensorPlan { name, source, dtype, shape, source_len, fate, skip, outputs: outputs.collect() }
}

fn alignment(output: &Output<()>) -> u64 {
    element_len(output.dtype).unwrap_or(1)
}
