//! What the planner `mgm` says where nothing fits: how much is missing on which device, and what would help.
//!
//! Owns the shortfall, which is exact, and the remedies, each of which was tried. Leaves the placing to the parent.

use std::cmp::Reverse;

use super::{Item, Load, Problem};
use crate::device::{Device, MemoryTable};
use crate::device_map::{Attention, Request, Reserves, Workload};
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
                for device in home..at {
                    match self.start(device, home, Load::default()) {
                        Some(held) => rest = rest.get(self.fitting(rest.iter(), device, home, held)..)?,
                        None if device == home => return None,
                        None => {}
                    }
                }
                for device in (at + 1..self.gpus.len()).rev() {
                    if let Some(held) = self.start(device, home, Load::default()) {
                        let kept = rest.len() - self.fitting(rest.iter().rev(), device, home, held);
                        rest = rest.get(..kept)?;
                    }
                }
                let held = if at == home { self.home_load() } else { Load::default() };
                Some(self.need(rest.iter().map(Item::load).sum::<Load>().and(held), at == home))
            })
            .min()
    }

    /// How many of `items` fit, in their order, on accelerator `at` beside what it holds.
    fn fitting<'i>(
        &self,
        items: impl Iterator<Item = &'i Item<'i>>,
        at: usize,
        home: usize,
        mut held: Load,
    ) -> usize {
        items
            .take_while(|item| {
                held = held.and(item.load());
                self.fits(at, home, held)
            })
            .count()
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
        let all = self.home_load().and(self.flow.iter().map(Item::load).sum());
        let layers = Load { layers: true, ..Load::default() };
        let need =
            self.need(all, true) + self.need(layers, false) * self.gpus.len().saturating_sub(1) as u128;
        let remedies = remedies(req, needs.iter().find(|need| need.device == Device::Cpu));
        DoesNotFit { shortfall, device, need: saturate(need), needs, memory: req.memory.clone(), remedies }
    }
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
        let sdpa = Workload { attention: Attention::Sdpa, ..workload };
        let reserves = sdpa.reserves(req.reserves.per_device);
        let is_other = workload.attention == Attention::Eager && workload.decoder.has_sdpa;
        if is_other && fits(&Request { reserves, ..*req }) {
            found.push(Remedy::Sdpa);
        }
        let fits_with = |context: u64| {
            let shorter = Workload { context, ..workload };
            let reserves = shorter.reserves(req.reserves.per_device);
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
    if let Some(modules) = req.alternatives.int8 {
        let workload = req.alternatives.workload.map(Workload::in_int8);
        let reserves = workload.map_or(req.reserves, |workload| workload.reserves(req.reserves.per_device));
        if fits(&Request { modules, reserves, ..*req }) {
            found.push(Remedy::Int8);
        }
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
    use crate::device_map::{Alternatives, Classes, Decoder, DeviceMap, Module};
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
        assert_eq!(error.explain().place.unwrap(), "memory table gpu 0 6.00 GiB, gpu 1 6.00 GiB");
        assert_eq!(
            error.explain().why.unwrap(),
            "it takes 13.00 GiB of 12.00 GiB in all; gpu 0 has 6.00 GiB, alone would need 8.00 GiB; \
             gpu 1 has 6.00 GiB, alone would need 7.00 GiB"
        );
        assert_eq!(
            error.explain().help.unwrap(),
            "it fits with ‹scheme=\"int8\"›, or with 1 more GPU of 6.00 GiB"
        );
    }

    #[test]
    fn proposes_the_largest_context_that_fits() {
        let modules = model(2);
        let decoder = Decoder {
            classes: Classes::Counted,
            hidden: 4096,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            intermediate: 11008,
            experts: None,
            experts_in_all: 1,
            vocab: 32000,
            cache_bytes_per_token: 4 * 8 * 128,
            masked_from: u64::MAX,
            is_int8: false,
            has_sdpa: true,
        };
        let plan = |memory: &str, context: u64| -> Result<DeviceMap, DeviceMapError> {
            let workload = Workload {
                decoder,
                encoders: None,
                attention: Attention::Sdpa,
                context,
                image_tokens: 576,
                batch: 1,
                positions: None,
            };
            let reserves = workload.reserves(0);
            let alternatives = Alternatives { int8: None, workload: Some(workload) };
            plan_mgm(&Request { reserves, alternatives, ..request(&modules, &table(memory)) })
        };
        // The weights alone take 7 GiB.
        let miss = refusal(plan("7GiB", 1 << 20).unwrap_err());
        assert!(!miss.remedies.iter().any(|remedy| matches!(remedy, Remedy::Context { .. })));

        let miss = refusal(plan("8GiB", 1 << 20).unwrap_err());
        let Some(Remedy::Context { tokens }) = miss.remedies.first() else { panic!("{miss:?}") };
        assert_eq!(plan("8GiB", *tokens).unwrap().longest.unwrap().sdpa, Some(*tokens));
        assert!(plan("8GiB", tokens + 1).is_err());
    }
}
