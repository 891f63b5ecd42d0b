//! What the planner `mgm` says where nothing fits: how much is missing on which device, and what would help.
//!
//! Owns the shortfall, which is exact, and the remedies, each of which was tried. Leaves the placing to the parent.

use std::cmp::Reverse;

use super::{Item, Problem};
use crate::device::{Device, MemoryTable};
use crate::device_map::{Request, Reserves, Workload};
use crate::error::{DeviceNeed, DoesNotFit, Remedy};

/// Most accelerators that a refusal proposes to add.
const MAX_MORE_GPUS: u32 = 64;

/// Shortest context that a refusal proposes; with less there is no conversation.
const MIN_CONTEXT: u64 = 256;

impl Problem<'_> {
    /// What accelerator `at` alone would need, all others as they are: those before it are filled from the
    /// front, those behind it from the back, and it takes what remains.
    fn needed(&self, at: usize) -> Option<u128> {
        (0..=at)
            .filter_map(|home| {
                let mut rest = self.flow.as_slice();
                if home < at {
                    for device in home..at {
                        let room = match self.room(device, home, 0) {
                            Some(room) => room,
                            None if device == home => return None,
                            None => continue,
                        };
                        rest = rest.get(fitting(rest.iter(), room)..)?;
                    }
                }
                for device in (at + 1..self.gpus.len()).rev() {
                    if let Some(room) = self.room(device, home, 0) {
                        let kept = rest.len() - fitting(rest.iter().rev(), room);
                        rest = rest.get(..kept)?;
                    }
                }
                let fixed = if at == home { self.home_cost() } else { u128::from(self.reserves.per_device) };
                Some(fixed + rest.iter().map(Item::cost).sum::<u128>())
            })
            .min()
    }

    /// What a request that no placement fits is answered.
    pub(super) fn refuse(&self, req: &Request<'_>) -> DoesNotFit {
        let saturate = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut needs: Vec<DeviceNeed> = self
            .gpus
            .iter()
            .enumerate()
            .filter_map(|(at, &(device, budget))| {
                Some(DeviceNeed { device, budget, needed: saturate(self.needed(at)?) })
            })
            .collect();
        let host_need = req.allow_cpu.and_then(|budget| {
            let least = self.place_with_host(u64::MAX)?;
            let off = self.flow.iter().zip(&least.flow).filter(|(_, place)| place.is_none());
            let needed = off.map(|(item, _)| item.module.bytes).fold(0, u64::saturating_add);
            Some(DeviceNeed { device: Device::Cpu, budget, needed })
        });
        needs.extend(host_need);
        let missing = |need: &DeviceNeed| need.needed.saturating_sub(need.budget);
        let least = needs.iter().enumerate().min_by_key(|(at, need)| (missing(need), Reverse(*at)));
        let (shortfall, device) = least.map_or((0, Device::Cpu), |(_, need)| (missing(need), need.device));
        let need = self.home_cost()
            + self.flow.iter().map(Item::cost).sum::<u128>()
            + u128::from(self.reserves.per_device) * self.gpus.len().saturating_sub(1) as u128;
        let remedies = remedies(req, needs.iter().find(|need| need.device == Device::Cpu));
        DoesNotFit { shortfall, device, need: saturate(need), needs, memory: req.memory.clone(), remedies }
    }
}

/// How many of `items` fit into `room`, in their order.
fn fitting<'a>(items: impl Iterator<Item = &'a Item<'a>>, mut room: u128) -> usize {
    items
        .map_while(|item| {
            room = room.checked_sub(item.cost())?;
            Some(())
        })
        .count()
}

/// Tries each change by itself, smallest first, and returns those that make the model fit.
fn remedies(req: &Request<'_>, host: Option<&DeviceNeed>) -> Vec<Remedy> {
    let fits = |changed: &Request<'_>| Problem::new(changed).place(changed.allow_cpu).is_some();
    let mut found = Vec::new();
    if req.reserves.per_device > 0 {
        let reserves = Reserves { per_device: 0, ..req.reserves };
        if fits(&Request { reserves, ..*req }) {
            found.push(Remedy::WithoutReserve);
        }
    }
    if let Some(workload) = req.alternatives.workload {
        let fits_with = |context: u64| {
            let shorter = Workload { context, ..workload };
            let reserves = shorter.reserves(req.reserves.per_device, req.reserves.activations_first);
            fits(&Request { reserves, ..*req })
        };
        if MIN_CONTEXT < workload.context && fits_with(MIN_CONTEXT) {
            let (mut good, mut bad) = (MIN_CONTEXT, workload.context);
            while bad - good > 1 {
                let middle = good + (bad - good) / 2;
                if fits_with(middle) { good = middle } else { bad = middle }
            }
            found.push(Remedy::Context { tokens: good });
        }
    }
    if req.alternatives.int8.is_some_and(|modules| fits(&Request { modules, ..*req })) {
        found.push(Remedy::Int8);
    }
    if let Some((Device::Gpu(last), bytes)) = req.memory.gpus().next_back() {
        let with = |count: u32| {
            let more = (1..=count).map(|at| (Device::Gpu(last.saturating_add(at)), bytes));
            MemoryTable::new(req.memory.entries().iter().copied().chain(more))
        };
        let count = (1..=MAX_MORE_GPUS)
            .find(|&count| with(count).is_some_and(|memory| fits(&Request { memory: &memory, ..*req })));
        found.extend(count.map(|count| Remedy::MoreGpus { count, bytes }));
    }
    found.extend(host.map(|need| Remedy::AllowCpu { bytes: need.needed }));
    found
}

#[cfg(test)]
mod tests {
    use super::super::plan_mgm;
    use super::super::tests::{GIB, model, refusal, request, table};
    use super::*;
    use crate::device_map::{Alternatives, Attention, DeviceMap, Module};
    use crate::error::{DeviceMapError, Explain as _};

    #[test]
    fn the_shortfall_is_exactly_what_is_missing() {
        let (modules, memory) = (model(5), table("2x6GiB"));
        let miss = refusal(plan_mgm(&request(&modules, &memory)).unwrap_err());
        assert_eq!((miss.shortfall, miss.device), (GIB, Device::Gpu(1)));
        for need in &miss.needs {
            for (bytes, fits) in [(need.needed, true), (need.needed - 1, false)] {
                let entries = memory
                    .entries()
                    .iter()
                    .map(|&(device, has)| (device, if device == need.device { bytes } else { has }));
                let memory = MemoryTable::new(entries).unwrap();
                assert_eq!(plan_mgm(&request(&modules, &memory)).is_ok(), fits, "{need:?}");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_is_missing_where_and_what_would_help() {
        let (modules, memory) = (model(5), table("2x6GiB"));
        let small: Vec<_> = modules.iter().map(|m| Module { bytes: m.bytes / 2, ..m.clone() }).collect();
        let alternatives = Alternatives { int8: Some(&small), workload: None };
        let error = plan_mgm(&Request { alternatives, ..request(&modules, &memory) }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model does not fit: 1.00 GiB (1073741824 bytes) are missing on gpu 1"
        );
        assert_eq!(error.place().unwrap(), "memory table gpu 0 6.00 GiB, gpu 1 6.00 GiB");
        assert_eq!(
            error.why().unwrap(),
            "it takes 13.00 GiB of 12.00 GiB in all; gpu 0 has 6.00 GiB, alone would need 8.00 GiB; \
             gpu 1 has 6.00 GiB, alone would need 7.00 GiB"
        );
        assert_eq!(error.help().unwrap(), "it fits with ‹scheme=\"int8\"›, or with 1 more GPU of 6.00 GiB");
    }

    #[test]
    fn proposes_the_largest_context_that_fits() {
        let modules = model(2);
        let attention = Attention { kv_heads: 8, head_dim: 128, vocab: 32000 };
        let plan = |memory: &str, context: u64| -> Result<DeviceMap, DeviceMapError> {
            let workload = Workload { attention, context, image_tokens: 576, batch: 1 };
            let reserves = workload.reserves(0, 0);
            let alternatives = Alternatives { int8: None, workload: Some(workload) };
            plan_mgm(&Request { reserves, alternatives, ..request(&modules, &table(memory)) })
        };
        // The weights alone take 7 GiB.
        let miss = refusal(plan("7GiB", 1 << 20).unwrap_err());
        assert!(!miss.remedies.iter().any(|remedy| matches!(remedy, Remedy::Context { .. })));

        let miss = refusal(plan("8GiB", 1 << 20).unwrap_err());
        let Some(Remedy::Context { tokens }) = miss.remedies.first() else { panic!("{miss:?}") };
        assert!(plan("8GiB", *tokens).is_ok());
        assert!(plan("8GiB", tokens + 1).is_err());
    }
}
