//! The whole decision on a checkpoint's weights, made alike for `convert`, `plan` and `map`: what one refuses, the others
//! do.

use super::clients::{self, Bypass};
use super::{Plan, Precision, Recipe, WeightOptions};
use crate::checkpoint::SourceTensor;
use crate::error::Result;
use crate::subject::Subject;

/// A model with a plan for its weights.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What it is.
    pub subject: Subject,
    /// What becomes of its tensors.
    pub plan: Plan,
    /// Things the user should know.
    pub notices: Vec<String>,
    options: WeightOptions,
    max_shard_len: u64,
}

impl Prepared {
    /// Decides. `tensors`: all of the checkpoint; `has_file`: whether it has a file of that path beside them.
    ///
    /// # Errors
    /// [`crate::error::PlanError`] where the checkpoint or what is asked of it cannot be had.
    pub fn of(
        subject: Subject,
        tensors: &[SourceTensor],
        has_file: impl Fn(&str) -> bool,
        options: &WeightOptions,
        max_shard_len: u64,
    ) -> Result<Self> {
        let bypass = Bypass::of(&subject, has_file);
        let layout = options.layout.or_else(|| bypass?.layout(options.precision, &subject));
        let chosen = WeightOptions { layout, ..options.clone() };
        let recipe = Recipe::choose(&chosen, max_shard_len, subject.family())?;
        let is_generic = subject.mgm().is_none();
        if is_generic {
            clients::check(tensors, recipe.scheme, &subject)?;
        }
        let plan = Plan::new(tensors, &recipe)?;
        let mut notices: Vec<String> = clients::cache_notice(tensors, plan.scheme).into_iter().collect();
        if let Some(percent) = plan.mostly_float() {
            let most = super::reasons(&plan.tensors).into_iter().next().map(|(why, _)| why);
            notices.push(format!(
                "{percent} % of the weights stay float in {}: {}",
                plan.scheme.name(),
                most.as_deref().unwrap_or("they are no linears"),
            ));
        }
        if is_generic {
            notices.extend(clients::notice(&plan, &subject).map(str::to_owned));
            notices.extend(bypass.and_then(|it| it.notice(plan.scheme, layout != options.layout)));
        }
        Ok(Self { subject, plan, notices, options: options.clone(), max_shard_len })
    }

    /// The plan for the same checkpoint in int8, which a device map that does not fit may propose; `None` where the scheme
    /// quantizes already and for a model with nothing to quantize.
    pub fn int8(&self, tensors: &[SourceTensor]) -> Option<Plan> {
        if self.plan.scheme.is_quantized() {
            return None;
        }
        let options =
            WeightOptions { precision: Precision::Int8, layout: None, ignore: self.options.ignore.clone() };
        let recipe = Recipe::choose(&options, self.max_shard_len, self.subject.family()).ok()?;
        Plan::new(tensors, &recipe).ok()
    }
}
