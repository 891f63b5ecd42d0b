//! A tower's weights, written anew: only what MGM reads of them, as float16, under the name that its loader opens.
//!
//! The CLIP tower becomes one safetensors file, through the same pipeline as the shards. The auxiliary tower stays
//! a torch file, because MGM opens `open_clip_pytorch_model.bin` with torch.load; it holds a state dict and nothing
//! else. Carries out formats/bundle.md, "Towers".

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rayon::ThreadPool;

use super::block::{self, BLOCK_LEN, Block, Rules, Scratch};
use super::pipeline::{self, Pipeline, Resources};
use super::supply::Present;
use super::{Options, io_error};
use crate::checkpoint::torch::View;
use crate::checkpoint::{Checkpoint, Reading, SourceTensor, Span};
use crate::error::{ConvertError, Error, Result};
use crate::family::{Tower, TowerRole};
use crate::manifest::FileRecord;
use crate::plan::{Fate, Plan, Recipe, TensorPlan};
use crate::progress::{Progress, Stop};
use crate::scheme::Scheme;
use crate::shard::{Seal, SealedFile};
use crate::tensor::{Dtype, Float, element_count, element_len};
use crate::torch_zip::{self, NewStorage, NewTensor};

/// A tower whose weights are written anew.
pub(super) struct Rewrite {
    /// The tower's weights, open.
    pub(super) weights: Checkpoint,
    /// Name of the new file in the tower's folder.
    pub(super) file_name: String,
    /// Bytes of its tensors.
    pub(super) data_len: u64,
    form: Form,
}

enum Form {
    /// A plan of one shard.
    Safetensors(Box<Plan>, Resources),
    Torch(Vec<Source>, Vec<NewTensor>),
}

/// What a storage of the new torch file is made from: a run of elements of the tower's weights.
struct Source {
    run: SourceTensor,
    /// How it is stored; its name is that of the first tensor in it.
    plan: TensorPlan,
    dtype: Dtype,
}

impl Rewrite {
    /// Opens the weights at `path` and decides how they are written.
    ///
    /// # Errors
    /// What is wrong with the weights; [`ConvertError::Tower`] where they hold none of what MGM reads, or what
    /// cannot be written.
    pub(super) fn prepare(tower: &'static Tower, path: &Path, options: &Options) -> Result<Self> {
        let weights = Checkpoint::open_file(path)?;
        let is_used =
            |name: &str| tower.state_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let used: Vec<(usize, &SourceTensor)> = weights
            .tensors()
            .iter()
            .enumerate()
            .filter(|(_, tensor)| is_used(tensor.name.as_str()))
            .collect();
        let bad = |why| ConvertError::Tower { path: path.to_owned(), why };
        if used.is_empty() {
            return Err(bad("it holds none of the tensors that MGM reads").into());
        }
        let (file_name, form) = match tower.role {
            TowerRole::Clip => {
                let tensors: Vec<SourceTensor> = used.iter().map(|(_, tensor)| (*tensor).clone()).collect();
                let mut plan = Plan::new(&tensors, &recipe())?;
                for tensor in &mut plan.tensors {
                    tensor.source = used[tensor.source].0;
                }
                let name = "model.safetensors".to_owned();
                plan.shards[0].name.clone_from(&name);
                let resources = Resources::choose(&plan, &weights, options.threads, options.max_memory)?;
                (name, Form::Safetensors(Box::new(plan), resources))
            }
            TowerRole::Aux => {
                let (sources, tensors) =
                    lay_out(&used).ok_or_else(|| bad("it holds a type that cannot be kept"))?;
                let name =
                    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                (name, Form::Torch(sources, tensors))
            }
        };
        let data_len = match &form {
            Form::Safetensors(plan, _) => plan.totals().bytes,
            Form::Torch(sources, _) => sources.iter().map(Source::byte_len).fold(0, u64::saturating_add),
        };
        if let Form::Torch(sources, _) = &form
            && (data_len > torch_zip::MAX_FILE_LEN || sources.len() > torch_zip::MAX_STORAGES)
        {
            return Err(bad("what MGM reads of it is too large for one file").into());
        }
        Ok(Self { weights, file_name, data_len, form })
    }

    /// Memory that writing takes at its peak.
    pub(super) fn peak(&self) -> u64 {
        match &self.form {
            Form::Safetensors(_, resources) => resources.peak,
            Form::Torch(..) => 0,
        }
    }

    /// Writes the file into `dir`, a folder that is there. Gives its record, with `path` as its path.
    pub(super) fn write(
        &self,
        dir: &Path,
        path: String,
        rules: Rules,
        pool: &ThreadPool,
        (progress, stop): (&dyn Progress, &Stop),
    ) -> Result<FileRecord> {
        let Seal { len, sha256 } = match &self.form {
            Form::Safetensors(plan, resources) => {
                let pipeline = Pipeline {
                    supply: &Present,
                    journal: None,
                    checkpoint: &self.weights,
                    plan,
                    rules,
                    resources: *resources,
                    progress,
                    stop,
                };
                pipeline.run(pool, dir)?.seals[0]
            }
            Form::Torch(sources, tensors) => {
                let full = dir.join(&self.file_name);
                let failed = |cause| io_error("writing a tower", &full, cause);
                let out = SealedFile::create(&full, self.data_len).map_err(failed)?;
                let storages: Vec<NewStorage> = sources
                    .iter()
                    .map(|source| NewStorage { dtype: source.dtype, len: source.len() })
                    .collect();
                let stem = self.file_name.strip_suffix(".bin").unwrap_or(&self.file_name);
                let mut scratch = Scratch::default();
                let fill = |number: usize, out: &mut dyn Write| {
                    self.fill(&sources[number], &rules, &mut scratch, out, (progress, stop))
                };
                let out =
                    torch_zip::write(out, stem, &storages, tensors, fill).map_err(|error| match error {
                        Failed::Io(cause) => failed(cause),
                        Failed::Other(error) => error,
                    })?;
                out.finish().map_err(failed)?
            }
        };
        Ok(FileRecord { path: super::checked(path)?, size: len, sha256 })
    }

    fn fill(
        &self,
        source: &Source,
        rules: &Rules,
        scratch: &mut Scratch,
        out: &mut dyn Write,
        (progress, stop): (&dyn Progress, &Stop),
    ) -> Result<(), Failed> {
        let width = element_len(source.run.dtype).unwrap_or(1) as usize;
        let (mut bytes, mut cast) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < source.len() {
            if stop.requested() {
                return Err(Failed::Other(Error::Interrupted { kept: false }));
            }
            let count = (source.len() - first).min(BLOCK_LEN);
            bytes.resize(count as usize * width, 0);
            self.weights.read(&source.run, first, &mut bytes)?;
            let made = if let Fate::Cast { from, to } = source.plan.fate {
                cast.resize(count as usize * to.byte_len(), 0);
                let block = Block { tensor: &source.plan, from, first, source: &bytes };
                block::cast(rules, &block, to, scratch, &mut cast)?;
                &cast
            } else {
                &bytes
            };
            out.write_all(made)?;
            progress.advance(made.len() as u64);
            first += count;
        }
        Ok(())
    }
}

/// What a tower is cast with.
pub(super) fn rules(options: &Options) -> Rules {
    Rules { isa: options.isa, on_overflow: options.on_overflow, stats: false }
}

fn recipe() -> Recipe {
    Recipe {
        scheme: Scheme::FP16,
        ignore: Vec::new(),
        family: None,
        rest: Some(Float::F16),
        max_shard_len: u64::MAX,
        together: false,
    }
}

impl Source {
    fn len(&self) -> u64 {
        element_count(&self.run.shape).unwrap_or(0)
    }

    fn byte_len(&self) -> u64 {
        self.len().saturating_mul(element_len(self.dtype).unwrap_or(1))
    }

    /// A run of elements of `tensor`'s storage, or all of the tensor.
    fn new(tensor: &SourceTensor, run: SourceTensor) -> Option<Self> {
        let fate = match Float::of(tensor.dtype) {
            Some(from) if from != Float::F16 => Fate::Cast { from, to: Float::F16 },
            _ => Fate::Copy,
        };
        let dtype = if let Fate::Cast { to, .. } = fate { to.dtype() } else { tensor.dtype };
        torch_zip::storage_class(dtype)?;
        let plan = TensorPlan {
            name: tensor.name.clone(),
            source: 0,
            dtype: tensor.dtype,
            shape: run.shape.clone(),
            source_len: run.byte_len,
            fate,
            skip: None,
            outputs: Vec::new(),
        };
        Some(Self { run, plan, dtype })
    }
}

/// Storages and tensors of the new torch file. Tensors that share a storage go on sharing it, and views stay
/// views, where that takes no more room than a copy of each. `None` where a type cannot be written.
fn lay_out(used: &[(usize, &SourceTensor)]) -> Option<(Vec<Source>, Vec<NewTensor>)> {
    let mut groups: BTreeMap<(usize, usize), Vec<&SourceTensor>> = BTreeMap::new();
    for (index, tensor) in used {
        // A tensor without a storage of its own is its own.
        let key = match tensor.span().and_then(|span| span.view.as_deref()) {
            Some(view) if tensor.byte_len > 0 => (view.storage, 0),
            _ => (usize::MAX, *index),
        };
        groups.entry(key).or_default().push(tensor);
    }
    let (mut sources, mut tensors) = (Vec::new(), Vec::new());
    for group in groups.into_values() {
        match shared_run(&group) {
            Some((run, low)) => {
                for tensor in &group {
                    let view = tensor.span()?.view.as_deref()?;
                    tensors.push(new_tensor(tensor, sources.len(), view.start - low, view.strides.clone()));
                }
                sources.push(Source::new(group[0], run)?);
            }
            None => {
                for tensor in group {
                    let strides = row_major(&tensor.shape);
                    tensors.push(new_tensor(tensor, sources.len(), 0, strides));
                    sources.push(Source::new(tensor, tensor.clone())?);
                }
            }
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Some((sources, tensors))
}

fn new_tensor(tensor: &SourceTensor, storage: usize, start: u64, strides: Vec<u64>) -> NewTensor {
    NewTensor { name: tensor.name.to_string(), storage, start, shape: tensor.shape.clone(), strides }
}

/// The run of a storage from the first element that a group of its views uses to the last, and the first's place;
/// `None` where copies of the views are smaller.
fn shared_run(group: &[&SourceTensor]) -> Option<(SourceTensor, u64)> {
    let first = *group.first()?;
    if group.iter().any(|tensor| tensor.dtype != first.dtype) {
        return None;
    }
    let (mut low, mut high, mut copies) = (u64::MAX, 0, 0u64);
    for tensor in group {
        let view = tensor.span()?.view.as_deref()?;
        let steps: u64 = tensor.shape.iter().zip(&view.strides).map(|(dim, stride)| (dim - 1) * stride).sum();
        low = low.min(view.start);
        high = high.max(view.start + steps + 1);
        copies = copies.saturating_add(element_count(&tensor.shape)?);
    }
    let len = high - low;
    if len > copies {
        return None;
    }
    let span = first.span()?;
    let storage = span.view.as_deref()?.storage;
    let view = View { storage, start: low, strides: vec![1], is_contiguous: true };
    let run = SourceTensor {
        shape: vec![len],
        byte_len: len * element_len(first.dtype).unwrap_or(1),
        reading: Reading::Stored(Span { view: Some(Box::new(view)), ..span.clone() }),
        ..first.clone()
    };
    Some((run, low))
}

fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim].max(1);
    }
    strides
}

/// An error on the way through a writer.
enum Failed {
    Io(std::io::Error),
    Other(crate::Error),
}

impl From<std::io::Error> for Failed {
    fn from(cause: std::io::Error) -> Self {
        Self::Io(cause)
    }
}

impl From<crate::Error> for Failed {
    fn from(error: crate::Error) -> Self {
        Self::Other(error)
    }
}

/// The head and data of the new file take this much, within some kilobytes.
pub(super) fn file_len(rewrite: &Rewrite) -> u64 {
    let head = match &rewrite.form {
        Form::Safetensors(plan, _) => pipeline::shard_header(plan, 0).map_or(0, |head| head.len() as u64),
        // A local header, a directory entry, and about 200 bytes in the pickle.
        Form::Torch(_, tensors) => tensors.len() as u64 * 512,
    };
    head + rewrite.data_len
}
