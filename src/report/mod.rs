//! How far a bundle is from the checkpoint it was made from, tensor by tensor.
//!
//! Owns the comparison, which reads both from the disk and decodes what the bundle stores; the figures in the
//! manifest are not used. `summary` has the counts and the verdict, `page` makes one HTML page of it, `heat` and `charts`
//! the drawings. Memory is a few blocks for each thread, whatever the model's size.

mod charts;
mod heat;
mod kinds;
mod numbers;
mod page;
mod summary;

use std::collections::HashSet;

use rayon::prelude::*;
use serde::Serialize;

pub(crate) use page::{figure, page};

use kinds::kind_of;

use crate::bundle::{Bundle, Weight};
use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::device_map::Profile;
use crate::digest::Digest;
use crate::error::{BundleError, Error, Result};
use crate::kernels::{Isa, Moments};
use crate::progress::{Progress, Stage, Stop};
use crate::scheme::{PartKind, Scheme};
use crate::structure::{Role, role_of};
use crate::tensor::{Dtype, Float, element_len};

/// The bits of an infinite f32: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;
/// Elements compared byte for byte at a time.
const COMPARE_LEN: u64 = 1 << 16;

/// Bins of a histogram: an odd number, so that zero has one of its own.
pub(crate) const BINS: usize = 81;

/// The comparison of a bundle with its checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the bundle.
    pub bundle: String,
    /// Its id.
    pub id: Digest,
    /// How it is stored.
    pub scheme: Scheme,
    /// Hub id and commit of the checkpoint, as the bundle has them; null where it was made from a local one.
    pub source: Option<String>,
    /// The command that compared them, for the page.
    pub command: Option<String>,
    /// Every float tensor of the bundle, in layer order.
    pub tensors: Vec<TensorFigures>,
    /// Every other tensor, in layer order.
    pub others: Vec<OtherTensor>,
    /// Tensors of the checkpoint that the bundle does not have.
    pub absent: Vec<String>,
    /// Values of the tensors with the lowest SQNR, lowest first.
    pub worst: Vec<Histogram>,
    /// The bundle's device maps.
    pub profiles: Vec<Profile>,
}

/// One tensor, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct TensorFigures {
    /// Its name.
    pub name: String,
    /// The part of the model it belongs to.
    pub role: Role,
    /// Its module with `*` for the number of its layer and of an expert: `model.layers.*.self_attn.q_proj`.
    pub kind: String,
    /// Whether it is stored as codes.
    pub quantized: bool,
    /// Bytes in the checkpoint.
    pub source_bytes: u64,
    /// Bytes in the bundle, scales included.
    pub bytes: u64,
    /// Its values.
    pub values: u64,
    /// Those that are another number in the bundle; 0 where the tensor is exact.
    pub changed: u64,
    /// Those that are not 0 in the checkpoint and 0 in the bundle.
    pub flushed: u64,
    /// Finite ones that are not finite in the bundle, or beyond binary32. The figures below leave them out.
    pub overflowed: u64,
    /// NaN and infinities of the checkpoint. The figures below leave them out.
    pub non_finite: u64,
    /// Signal to noise in dB; null where nothing differs that can be measured.
    pub sqnr_db: Option<f64>,
    /// Largest absolute error.
    pub max_abs_error: f64,
    /// Cosine between the two; null where one is all zeros.
    pub cosine: Option<f64>,
}

/// A tensor of integers or of another type that is not decoded: compared byte for byte.
#[derive(Clone, Debug, Serialize)]
pub struct OtherTensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its bytes.
    pub bytes: u64,
    /// Whether they are those of the checkpoint.
    pub equal: bool,
}

/// How often values occur, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// The tensor.
    pub name: String,
    /// The bins part `[-limit, limit]` evenly: the largest magnitude of the checkpoint's values.
    pub limit: f32,
    /// Values of the checkpoint in each of [`BINS`].
    pub before: Vec<u64>,
    /// Decoded values of the bundle. Those beyond the limit count in the outermost.
    pub after: Vec<u64>,
}

impl Report {
    /// Compares every float tensor, on the current rayon pool. `worst`: how many get a histogram. First every shard is
    /// held against the seal: the figures are of the bytes that have the bundle's id.
    ///
    /// # Errors
    /// [`BundleError::Digest`] where a shard is damaged; [`BundleError::OtherCheckpoint`] where a tensor is missing in the checkpoint or has another shape; reading
    /// errors; [`Error::Interrupted`].
    pub fn compare(
        bundle: &Bundle,
        checkpoint: &Checkpoint,
        worst: usize,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Self> {
        bundle.check_shards(progress, stop)?;
        let both = Both { bundle, checkpoint, isa: Isa::detect(), stop };
        let pairs: Vec<(Weight<'_>, &SourceTensor)> =
            bundle.weights().map(|weight| Ok((weight, both.original_of(&weight)?))).collect::<Result<_>>()?;
        progress.begin(Stage::Compare, pairs.iter().map(|(_, original)| original.byte_len).sum());
        let (mut floats, mut others) = (Vec::new(), Vec::new());
        for (weight, original) in pairs {
            match compared_as(&weight, original) {
                Some(float) => floats.push((weight, original, float)),
                None => others.push((weight, original)),
            }
        }
        let pairs = floats;
        let tensors: Vec<TensorFigures> = pairs
            .par_iter()
            .map(|&(weight, original, float)| {
                let mut sums = Sums::default();
                both.walk(&weight, original, float, &mut |bytes, before, after| {
                    sums.count(float, bytes, before, after);
                    sums.measure(both.isa, before, after);
                })?;
                progress.advance(original.byte_len);
                Ok(figures(&weight, original, &sums))
            })
            .collect::<Result<_>>()?;
        let others = others.par_iter().map(|(weight, original)| {
            let equal = both.is_equal(weight, original)?;
            progress.advance(original.byte_len);
            Ok(OtherTensor {
                name: weight.name.to_string(),
                dtype: original.dtype,
                bytes: original.byte_len,
                equal,
            })
        });
        let others = others.collect::<Result<_>>()?;
        let held: HashSet<&str> = bundle.weights().map(|weight| weight.name.as_str()).collect();
        let absent = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        let absent = absent.filter(|name| !held.contains(name)).map(str::to_owned).collect();

        let mut order: Vec<usize> = (0..tensors.len()).filter(|&at| tensors[at].sqnr_db.is_some()).collect();
        order.sort_by(|&a, &b| {
            let sqnr = |at: usize| tensors[at].sqnr_db.unwrap_or(f64::INFINITY);
            sqnr(a).total_cmp(&sqnr(b))
        });
        order.truncate(worst);
        let worst = order
            .par_iter()
            .map(|&at| {
                let (weight, original, float) = &pairs[at];
                both.histogram(weight, original, *float)
            })
            .collect::<Result<_>>()?;
        progress.finish();
        Ok(Self {
            bundle: bundle.manifest().model.name.to_string(),
            id: bundle.id(),
            scheme: bundle.manifest().scheme.name,
            source: source_of(bundle),
            command: None,
            tensors,
            others,
            absent,
            worst,
            profiles: bundle.manifest().device_maps.clone(),
        })
    }
}

/// Takes values of a tensor: their bytes in the checkpoint, these widened, and what the bundle has.
type See<'a> = dyn FnMut(&[u8], &[f32], &[f32]) + 'a;

/// A bundle and the checkpoint it was made from, both open.
struct Both<'a> {
    bundle: &'a Bundle,
    checkpoint: &'a Checkpoint,
    isa: Isa,
    stop: &'a Stop,
}

impl<'a> Both<'a> {
    /// The checkpoint's tensor that a weight was made from.
    fn original_of(&self, weight: &Weight<'_>) -> Result<&'a SourceTensor> {
        let other = |why: String| BundleError::OtherCheckpoint {
            tensor: weight.name.to_string(),
            path: self.checkpoint.root().to_owned(),
            why,
        };
        let original = self
            .checkpoint
            .get(weight.name.as_str())
            .ok_or_else(|| other("it has no tensor of that name".into()))?;
        if original.shape != weight.shape() {
            return Err(other(format!(
                "its shape there is {:?}, the bundle has {:?}",
                original.shape,
                weight.shape()
            ))
            .into());
        }
        Ok(original)
    }

    /// Walks a tensor before, as its bytes and widened, and after, the same elements at a time.
    fn walk(
        &self,
        weight: &Weight<'_>,
        original: &SourceTensor,
        float: Float,
        see: &mut See<'_>,
    ) -> Result<()> {
        let width = float.byte_len();
        let (mut bytes, mut before) = (Vec::new(), Vec::new());
        let mut first = 0;
        self.bundle.decode(weight, self.isa, &mut |after| {
            if self.stop.requested() {
                return Err(Error::Interrupted { kept: false });
            }
            bytes.resize(after.len() * width, 0);
            self.checkpoint.read_as(original, float, first, &mut bytes)?;
            before.resize(after.len(), 0.0);
            self.isa.widen(float, &bytes, &mut before);
            first += after.len() as u64;
            see(&bytes, &before, after);
            Ok(())
        })
    }

    /// Whether the bytes of a tensor that is not decoded are the checkpoint's.
    fn is_equal(&self, weight: &Weight<'_>, original: &SourceTensor) -> Result<bool> {
        let Some(record) = weight.parts.first().filter(|record| record.dtype == original.dtype) else {
            return Ok(false);
        };
        let [mut at, end] = record.range;
        let width = element_len(original.dtype).unwrap_or(1).max(1);
        let (mut first, mut bytes) = (0, Vec::new());
        while at < end {
            if self.stop.requested() {
                return Err(Error::Interrupted { kept: false });
            }
            let len = (end - at).min(COMPARE_LEN * width);
            bytes.resize(len as usize, 0);
            self.checkpoint.read(original, first, &mut bytes)?;
            if self.bundle.read_at(record, at, len)? != bytes {
                return Ok(false);
            }
            (at, first) = (at + len, first + len / width);
        }
        Ok(true)
    }

    /// Counts the values of a tensor before and after.
    fn histogram(&self, weight: &Weight<'_>, original: &SourceTensor, float: Float) -> Result<Histogram> {
        let mut limit = 0f32;
        self.walk(weight, original, float, &mut |_, before, _| {
            let finite = before.iter().filter(|value| value.is_finite());
            limit = finite.fold(limit, |largest, value| largest.max(value.abs()));
        })?;
        let (mut counted_before, mut counted_after) = (vec![0; BINS], vec![0; BINS]);
        self.walk(weight, original, float, &mut |_, before, after| {
            for (counts, values) in [(&mut counted_before, before), (&mut counted_after, after)] {
                for value in values.iter().filter(|value| value.is_finite()) {
                    if let Some(count) = counts.get_mut(bin(*value, limit)) {
                        *count += 1;
                    }
                }
            }
        })?;
        Ok(Histogram { name: weight.name.to_string(), limit, before: counted_before, after: counted_after })
    }
}

/// What is added up over a tensor.
#[derive(Default)]
struct Sums {
    moments: Moments,
    values: u64,
    changed: u64,
    flushed: u64,
    overflowed: u64,
    non_finite: u64,
}

impl Sums {
    /// Counts by the checkpoint's own numbers: one of F64 may be 0 or infinite as binary32.
    fn count(&mut self, float: Float, bytes: &[u8], before: &[f32], after: &[f32]) {
        let mut count = |value: f64, widened: f32, stored: f32| {
            let kept = value == f64::from(stored) || value.is_nan() && stored.is_nan();
            self.changed += u64::from(!kept);
            self.flushed += u64::from(value != 0.0 && stored == 0.0);
            self.non_finite += u64::from(!value.is_finite());
            self.overflowed += u64::from(value.is_finite() && !(widened.is_finite() && stored.is_finite()));
        };
        if float == Float::F64 {
            for ((bytes, &widened), &stored) in bytes.as_chunks::<8>().0.iter().zip(before).zip(after) {
                count(f64::from_le_bytes(*bytes), widened, stored);
            }
        } else {
            before.iter().zip(after).for_each(|(&value, &stored)| count(f64::from(value), value, stored));
        }
        self.values += before.len() as u64;
    }

    /// Adds the error of some values. As schemes.md has it, "Error figures", one that is not finite counts as 0 on both
    /// sides.
    fn measure(&mut self, isa: Isa, before: &[f32], after: &[f32]) {
        let largest = isa.magnitude(before);
        if largest.max(isa.magnitude(after)) < INFINITE {
            self.moments.add(&isa.measure(before, after, f32::from_bits(largest)));
            return;
        }
        let finite = before.iter().zip(after).map(|(&before, &after)| {
            if before.is_finite() && after.is_finite() { (before, after) } else { (0.0, 0.0) }
        });
        let (before, after): (Vec<f32>, Vec<f32>) = finite.unzip();
        let largest = f32::from_bits(isa.magnitude(&before));
        self.moments.add(&isa.measure(&before, &after, largest));
    }
}

fn figures(weight: &Weight<'_>, original: &SourceTensor, sums: &Sums) -> TensorFigures {
    let name = weight.name.as_str();
    TensorFigures {
        name: name.to_owned(),
        role: role_of(name),
        kind: kind_of(weight.name.module()),
        quantized: weight.parts.len() > 1,
        source_bytes: original.stored_len(),
        bytes: weight.byte_len(),
        values: sums.values,
        changed: sums.changed,
        flushed: sums.flushed,
        overflowed: sums.overflowed,
        non_finite: sums.non_finite,
        sqnr_db: sums.moments.sqnr_db(),
        max_abs_error: sums.moments.max_error,
        cosine: sums.moments.cosine(),
    }
}

/// The type that a tensor of the checkpoint is compared in: its own, or that its values are defined in where the bundle
/// rounds them.
fn compared_as(weight: &Weight<'_>, original: &SourceTensor) -> Option<Float> {
    let is_cast = weight.part(PartKind::Values).is_some_and(|values| values.dtype != original.dtype);
    if is_cast { original.defined() } else { Float::of(original.dtype) }
}

/// The checkpoint that the bundle says it was made from.
fn source_of(bundle: &Bundle) -> Option<String> {
    let source = &bundle.manifest().source;
    match (&source.name, &source.revision) {
        (Some(name), Some(revision)) => Some(format!("{name}@{revision}")),
        (name, _) => name.as_ref().map(ToString::to_string),
    }
}

/// The bin of a value, the outermost for what lies beyond the limit.
fn bin(value: f32, limit: f32) -> usize {
    if limit <= 0.0 {
        return BINS / 2;
    }
    let part = (f64::from(value) / f64::from(limit) + 1.0) / 2.0;
    ((part * BINS as f64).floor().max(0.0) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_the_bin_in_the_middle_and_the_ends_are_closed() {
        assert_eq!(bin(0.0, 2.0), BINS / 2);
        assert_eq!(bin(0.0, 0.0), BINS / 2);
        assert_eq!((bin(-2.0, 2.0), bin(2.0, 2.0)), (0, BINS - 1));
        assert_eq!((bin(-3.0, 2.0), bin(f32::MAX, 2.0)), (0, BINS - 1));
    }
}
