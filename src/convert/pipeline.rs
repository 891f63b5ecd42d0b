//! The tensors of a plan, streamed: read ▸ kernel ▸ hash ▸ write, in bounded memory.
//!
//! A *lane* works on one shard. It cuts the shard into steps in the order of the file, gathers steps into
//! batches, and has the thread pool compute one batch while the batch before is hashed and written. Lanes
//! run beside each other, so that hashing (the slowest part, and serial within a file) is spread over cores.
//! Memory: two batches a lane, one scratch a thread, and the scales of the tensors in work.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::block::{self, BLOCK_LEN, Block, Figures, Rules, Scratch};
use super::io_error;
use super::journal::{Finished, Journal};
use super::supply::{Readers, Supply};
use crate::checkpoint::{Checkpoint, TENSOR_LEN};
use crate::error::{Error, PlanError, Result};
use crate::plan::{Fate, Output, Plan, TensorPlan};
use crate::progress::{Progress, Stop};
use crate::scheme::PartKind;
use crate::shard::{self, Seal, SealedFile};
use crate::tensor::{Float, element_count, element_len};
use crate::threads;

/// Memory of the process before any tensor is touched: code, headers of the checkpoint, plan, manifest.
const BASE_LEN: u64 = 24 << 20;
/// Output bytes of all batches together, where the budget allows: the same for every number of lanes, so that
/// memory does not follow the number of shards.
const BATCHES_LEN: u64 = 32 << 20;
/// Smallest batch: below it hand-overs cost more than the work.
const MIN_BATCH_LEN: u64 = 1 << 20;
/// Panels of turned matrices that a lane has in use: its largest batch lies in two or three, and the next begins in the last.
const PANELS_A_LANE: usize = 4;

/// How much of the machine a conversion takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Threads that compute.
    pub threads: usize,
    /// Shards in work at once.
    pub lanes: usize,
    /// Output bytes of a batch.
    pub batch_len: u64,
    /// Bytes that the conversion will take at its peak, at most.
    pub peak: u64,
}

impl Resources {
    /// Chooses lanes and batches for a plan of this checkpoint so that the peak stays within `budget` bytes.
    ///
    /// # Errors
    /// [`PlanError::Budget`] where even one lane with the smallest batch does not fit.
    pub fn choose(plan: &Plan, checkpoint: &Checkpoint, threads: usize, budget: u64) -> Result<Self> {
        let (read_len, panels) = (checkpoint.scratch_len(), PANELS_A_LANE as u64 * checkpoint.panels_len());
        // Records of plan and manifest: measured at 1 to 2 KiB a tensor, doubled while the manifest is written.
        let records = plan.totals().tensors * TENSOR_LEN;
        let scales = plan.tensors.iter().map(scale_memory).max().unwrap_or(0);
        let (scratch, step) = (block::scratch_len(plan), block::largest_block(plan) * 8);
        let at = |lanes: usize, batch_len: u64| {
            let lane = 2 * (batch_len + (batch_len >> 3) + step) + 2 * scales + panels;
            BASE_LEN + records + threads as u64 * (scratch + read_len) + lanes as u64 * lane
        };
        let mut lanes = plan.shards.len().clamp(1, threads.max(1));
        while lanes > 1 && at(lanes, MIN_BATCH_LEN) > budget {
            lanes -= 1;
        }
        let needed = at(lanes, MIN_BATCH_LEN);
        if needed > budget {
            return Err(PlanError::Budget { needed, budget }.into());
        }
        let mut batch_len = (BATCHES_LEN / (2 * lanes as u64)).max(MIN_BATCH_LEN);
        while at(lanes, batch_len) > budget && batch_len > MIN_BATCH_LEN {
            batch_len = (batch_len / 2).max(MIN_BATCH_LEN);
        }
        Ok(Self { threads, lanes, batch_len, peak: at(lanes, batch_len) })
    }
}

/// Bytes held for a tensor's scales until they are written.
fn scale_memory(tensor: &TensorPlan) -> u64 {
    tensor.output(PartKind::Scales).map_or(0, |scales| scales.byte_len * 2)
}

/// Everything a lane needs to know.
pub(super) struct Pipeline<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) plan: &'a Plan,
    pub(super) rules: Rules,
    pub(super) resources: Resources,
    pub(super) supply: &'a dyn Supply,
    /// What an earlier run finished; only where sources are removed.
    pub(super) journal: Option<&'a Journal>,
    pub(super) progress: &'a dyn Progress,
    pub(super) stop: &'a Stop,
}

/// What writing the shards gave: a seal for each shard, figures for each tensor of the plan.
pub(super) struct Written {
    pub(super) seals: Vec<Seal>,
    pub(super) figures: Vec<Figures>,
}

/// One piece of a shard, in the order of the file.
struct Step<'a> {
    tensor: usize,
    output: &'a Output,
    first: u64,
    elements: u64,
    byte_len: usize,
}

/// What computing a step gave, beside its bytes.
#[derive(Default)]
struct Done {
    figures: Figures,
    scales: Vec<u8>,
}

/// Scales and figures of one tensor, gathered in order.
#[derive(Default)]
struct Gathered {
    scales: Vec<u8>,
    figures: Figures,
}

/// A batch: steps, their bytes one after the other, and what else came of them.
#[derive(Default)]
struct Batch<'a> {
    steps: Vec<Step<'a>>,
    bytes: Vec<u8>,
    done: Vec<Done>,
}

/// Magnitudes of tiles that were found in a pass of their own, by tensor.
type Known = HashMap<usize, Vec<u32>>;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Pipeline<'a> {
    /// Writes every shard of the plan into `dir`.
    pub(super) fn run(&self, pool: &rayon::ThreadPool, dir: &Path) -> Result<Written> {
        let next = AtomicUsize::new(0);
        let readers = Readers::new(self.plan, self.checkpoint);
        let results = Mutex::new((Vec::new(), None));
        let lane = || {
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= self.plan.shards.len() {
                    return;
                }
                let outcome = self.finish_shard(pool, dir, shard, &readers);
                let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match outcome {
                    Ok(finished) => results.0.push((shard, finished)),
                    // The first in the order of the bundle is reported, whichever came first in time.
                    Err(error) => {
                        if results.1.as_ref().is_none_or(|(earlier, _)| shard < *earlier) {
                            results.1 = Some((shard, error));
                        }
                        next.store(self.plan.shards.len(), Ordering::Relaxed);
                        return;
                    }
                }
            }
        };
        // One after the other where files are removed, so that few are there at once.
        let lanes = if self.supply.removes() { 1 } else { self.resources.lanes };
        self.checkpoint.keep_panels(lanes * PANELS_A_LANE);
        threads::on_many(lanes.saturating_sub(1), lane);
        let (mut shards, error) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, error)) = error {
            return Err(error);
        }
        shards.sort_by_key(|(shard, _)| *shard);
        let mut figures = vec![Figures::default(); self.plan.tensors.len()];
        let mut seals = Vec::with_capacity(shards.len());
        for (_, finished) in shards {
            seals.push(finished.seal);
            for (tensor, found) in finished.figures {
                figures[tensor] = found;
            }
        }
        Ok(Written { seals, figures })
    }

    /// Has the sources of a shard brought, writes it, records it, and lets go of sources that it was the last to read.
    fn finish_shard(
        &self,
        pool: &rayon::ThreadPool,
        dir: &Path,
        index: usize,
        readers: &Readers,
    ) -> Result<Finished> {
        let finished = match self.journal.and_then(|journal| journal.get(index)) {
            Some(finished) => {
                self.progress.advance(self.plan.shards[index].data_len);
                finished.clone()
            }
            None => {
                self.supply.bring(readers.of(index))?;
                let finished = self.write_shard(pool, dir, index)?;
                if let Some(journal) = self.journal {
                    let failed = |cause| io_error("recording what is finished", dir, cause);
                    journal.add(index, &finished).map_err(failed)?;
                }
                finished
            }
        };
        readers.finished(index, self.supply)?;
        Ok(finished)
    }

    fn write_shard(&self, pool: &rayon::ThreadPool, dir: &Path, index: usize) -> Result<Finished> {
        let shard = &self.plan.shards[index];
        let path = dir.join(&shard.name);
        let failed = |cause| io_error("writing a shard", &path, cause);
        let head = shard_header(self.plan, index).map_err(|error| failed(error.into()))?;
        let mut file = SealedFile::create(&path, head.len() as u64 + shard.data_len).map_err(failed)?;
        file.write_all(&head).map_err(failed)?;

        let known = self.known_magnitudes(pool, index)?;
        let mut gathered: HashMap<usize, Gathered> = HashMap::new();
        let mut steps = self.steps(index);
        let mut current = Batch::default();
        let mut spare = Batch::default();
        self.fill(&mut steps, &mut current);
        pool.install(|| self.compute(&known, &mut current))?;
        while !current.steps.is_empty() {
            if self.stop.requested() {
                return Err(Error::Interrupted { kept: false });
            }
            self.fill(&mut steps, &mut spare);
            let (written, computed) = pool.install(|| {
                rayon::join(
                    || self.write(&known, &mut file, &current, &mut gathered).map_err(failed),
                    || self.compute(&known, &mut spare),
                )
            });
            written?;
            computed?;
            std::mem::swap(&mut current, &mut spare);
        }
        let seal = file.finish().map_err(failed)?;
        let figures = gathered.into_iter().map(|(tensor, gathered)| (tensor, gathered.figures));
        Ok(Finished { seal, figures: figures.collect() })
    }

    /// Magnitudes that must be known before the codes: of tiles that are wider than a block, and of weights whose
    /// scales lie before their codes in the shard. Their tensors are read twice.
    fn known_magnitudes(&self, pool: &rayon::ThreadPool, shard: usize) -> Result<Known> {
        let mut known = Known::new();
        for &(index, output) in &self.plan.shards[shard].outputs {
            let tensor = &self.plan.tensors[index];
            let codes = &tensor.outputs[output];
            let Fate::Quantize { from, codec } = tensor.fate else { continue };
            let (_, columns) = tensor.rows_and_columns();
            let tile = codec.tile(columns);
            let scales_first = tensor
                .output(PartKind::Scales)
                .is_some_and(|scales| scales.place.offset < codes.place.offset);
            let is_cut = tile.rows == 1 && tile.columns > BLOCK_LEN;
            if codes.kind != PartKind::Codes || !(scales_first || is_cut) {
                continue;
            }
            let steps: Vec<_> = tensor_steps(tensor, index, codes).collect();
            let found: Vec<_> = pool.install(|| {
                let of_step = |step: &Step<'_>| {
                    self.with_source(step, from, |block, scratch| {
                        Ok((step.first, block::magnitudes(&self.rules, block, codec, scratch)?))
                    })
                };
                if steps.iter().any(|step| self.is_compressed(step)) {
                    steps.iter().map(of_step).collect::<Result<_>>()
                } else {
                    steps.par_iter().map(of_step).collect::<Result<_>>()
                }
            })?;
            let mut tiles = vec![0; block::tile_count(tensor, codec)];
            for (first, magnitudes) in found {
                let at = block::tile_at(tensor, codec, first);
                for (tile, magnitude) in tiles.iter_mut().skip(at).zip(magnitudes) {
                    *tile = magnitude.max(*tile);
                }
            }
            known.insert(index, tiles);
        }
        Ok(known)
    }

    /// The steps of a shard in the order of its bytes.
    fn steps(&self, shard: usize) -> impl Iterator<Item = Step<'a>> + use<'a> {
        let plan = self.plan;
        plan.shards[shard].outputs.iter().flat_map(move |&(tensor, output)| {
            let of = &plan.tensors[tensor];
            tensor_steps(of, tensor, &of.outputs[output])
        })
    }

    fn fill<'b>(&self, steps: &mut impl Iterator<Item = Step<'b>>, batch: &mut Batch<'b>) {
        batch.steps.clear();
        batch.done.clear();
        let mut len = 0;
        while len < self.resources.batch_len {
            let Some(step) = steps.next() else { break };
            len += step.byte_len as u64;
            batch.steps.push(step);
        }
        batch.bytes.resize(batch.steps.iter().map(|step| step.byte_len).sum(), 0);
    }

    fn compute(&self, known: &Known, batch: &mut Batch<'_>) -> Result<()> {
        let mut rest = batch.bytes.as_mut_slice();
        let mut work = Vec::with_capacity(batch.steps.len());
        for step in &batch.steps {
            let (out, after) = rest.split_at_mut(step.byte_len);
            rest = after;
            work.push((step, out));
        }
        let compute = |(step, out): (&Step<'_>, &mut [u8])| match step.output.kind {
            PartKind::Values | PartKind::Codes => self.compute_step(known, step, out),
            PartKind::Format | PartKind::Shape => {
                out.copy_from_slice(&step.output.constant);
                Ok(Done::default())
            }
            PartKind::Scales => Ok(Done::default()),
        };
        batch.done = if batch.steps.iter().any(|step| self.is_compressed(step)) {
            // A compressed storage is a stream: out of order, it would be inflated again for every block.
            work.into_iter().map(compute).collect::<Result<_>>()?
        } else {
            work.into_par_iter().map(compute).collect::<Result<_>>()?
        };
        Ok(())
    }

    fn is_compressed(&self, step: &Step<'_>) -> bool {
        self.checkpoint.is_compressed(&self.checkpoint.tensors()[self.plan.tensors[step.tensor].source])
    }

    fn compute_step(&self, known: &Known, step: &Step<'_>, out: &mut [u8]) -> Result<Done> {
        let tensor = &self.plan.tensors[step.tensor];
        match tensor.fate {
            Fate::Copy => {
                self.read(step, out)?;
                Ok(Done::default())
            }
            Fate::Cast { from, to } => self.with_source(step, from, |block, scratch| {
                let figures = block::cast(&self.rules, block, to, scratch, out)?;
                Ok(Done { figures, scales: Vec::new() })
            }),
            Fate::Quantize { from, codec } => self.with_source(step, from, |block, scratch| {
                let mut scales = Vec::new();
                let at = block::tile_at(tensor, codec, step.first);
                let known = known.get(&step.tensor).and_then(|tiles| tiles.get(at..));
                let figures = block::quantize(&self.rules, block, codec, known, scratch, out, &mut scales)?;
                Ok(Done { figures, scales })
            }),
        }
    }

    /// Hashes and writes a computed batch in order, gathering scales until their turn comes.
    fn write(
        &self,
        known: &Known,
        file: &mut SealedFile,
        batch: &Batch<'_>,
        gathered: &mut HashMap<usize, Gathered>,
    ) -> std::io::Result<()> {
        let mut rest = batch.bytes.as_slice();
        for (step, done) in batch.steps.iter().zip(&batch.done) {
            let (bytes, after) = rest.split_at(step.byte_len);
            rest = after;
            let entry = gathered.entry(step.tensor).or_default();
            entry.figures.add(&done.figures);
            entry.scales.extend_from_slice(&done.scales);
            if step.output.kind == PartKind::Scales {
                let mut scales = std::mem::take(&mut entry.scales);
                if let Fate::Quantize { from, codec } = self.plan.tensors[step.tensor].fate {
                    for magnitude in known.get(&step.tensor).into_iter().flatten() {
                        let scale = codec.scale(from, f32::from_bits(*magnitude));
                        codec.scale_type(from).write(scale.stored, &mut scales);
                    }
                }
                if scales.len() as u64 != step.output.byte_len {
                    let why = "a tensor has more or fewer scales than were planned";
                    return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
                }
                file.write_all(&scales)?;
                self.progress.advance(scales.len() as u64);
            } else {
                file.write_all(bytes)?;
                self.progress.advance(bytes.len() as u64);
            }
        }
        Ok(())
    }

    fn with_source<T>(
        &self,
        step: &Step<'_>,
        from: Float,
        work: impl FnOnce(&Block<'_>, &mut Scratch) -> Result<T>,
    ) -> Result<T> {
        SCRATCH.with_borrow_mut(|scratch| {
            let tensor = &self.plan.tensors[step.tensor];
            let mut source = std::mem::take(&mut scratch.source);
            source.resize(step.elements as usize * from.byte_len(), 0);
            let outcome = self
                .read(step, &mut source)
                .and_then(|()| work(&Block { tensor, from, first: step.first, source: &source }, scratch));
            scratch.source = source;
            outcome
        })
    }

    fn read(&self, step: &Step<'_>, bytes: &mut [u8]) -> Result<()> {
        let tensor = &self.plan.tensors[step.tensor];
        let source = &self.checkpoint.tensors()[tensor.source];
        match tensor.fate {
            // Copies are counted in bytes, cut at multiples of every element's size.
            Fate::Copy => {
                let width = element_len(tensor.dtype).unwrap_or(1);
                self.checkpoint.read(source, step.first / width, bytes)
            }
            Fate::Cast { from, .. } | Fate::Quantize { from, .. } => {
                self.checkpoint.read_as(source, from, step.first, bytes)
            }
        }
    }
}

/// The head of a shard of the plan; its data begins where it ends.
pub(super) fn shard_header(plan: &Plan, index: usize) -> serde_json::Result<Vec<u8>> {
    shard::header(plan.shards[index].outputs.iter().map(|&(tensor, output)| {
        let output = &plan.tensors[tensor].outputs[output];
        (
            output.name.as_str(),
            output.dtype,
            output.shape.as_slice(),
            output.place.offset..output.place.offset + output.byte_len,
        )
    }))
}

/// Cuts one output into steps. Copies are cut by bytes, everything else by elements.
fn tensor_steps<'a>(
    tensor: &'a TensorPlan,
    index: usize,
    output: &'a Output,
) -> impl Iterator<Item = Step<'a>> + use<'a> {
    let elements = element_count(&tensor.shape).unwrap_or(u64::MAX);
    let total = match (output.kind, tensor.fate) {
        (PartKind::Scales | PartKind::Format | PartKind::Shape, _) => 1,
        (PartKind::Values, Fate::Copy) => output.byte_len,
        (PartKind::Values | PartKind::Codes, _) => elements,
    };
    let mut first = 0;
    std::iter::from_fn(move || {
        if first >= total {
            return None;
        }
        let (elements, byte_len) = match (output.kind, tensor.fate) {
            // Scales get their bytes when they are written; they are known only then.
            (PartKind::Scales, _) => (1, 0),
            (PartKind::Format | PartKind::Shape, _) => (1, output.byte_len),
            (PartKind::Values | PartKind::Codes, Fate::Copy) => {
                let len = (total - first).min(BLOCK_LEN * 4);
                (len, len)
            }
            (PartKind::Values | PartKind::Codes, Fate::Cast { to, .. }) => {
                let elements = block::block_elements(tensor, first, total);
                (elements, elements * to.byte_len() as u64)
            }
            (PartKind::Values | PartKind::Codes, Fate::Quantize { codec, .. }) => {
                let elements = block::block_elements(tensor, first, total);
                (elements, elements * codec.code_bits() / 8)
            }
        };
        let step = Step { tensor: index, output, first, elements, byte_len: byte_len as usize };
        first += elements;
        Some(step)
    })
}
