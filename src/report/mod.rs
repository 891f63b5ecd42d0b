//! How far a bundle is from the checkpoint it was made from, tensor by tensor.
//!
//! Owns the comparison, which reads both from the disk and decodes what the bundle stores; the figures in the
//! manifest are not used. `page` makes one HTML page of it, `charts` the drawings. Memory is a few blocks for
//! each thread, whatever the model's size.

mod charts;
mod page;

use rayon::prelude::*;
use serde::Serialize;

pub use page::{figure, page};

use crate::bundle::{Bundle, Weight};
use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::device_map::Profile;
use crate::digest::Digest;
use crate::error::{BundleError, ConvertError, Result};
use crate::kernels::{Isa, Moments};
use crate::progress::{Progress, Stage, Stop};
use crate::scheme::Scheme;
use crate::structure::{Role, role_of};
use crate::tensor::is_castable;

/// Bins of a histogram: an odd number, so that zero has one of its own.
pub const BINS: usize = 81;

/// The comparison of a bundle with its checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the bundle.
    pub bundle: String,
    /// Its id.
    pub id: Digest,
    /// How it is stored.
    pub scheme: Scheme,
    /// Every float tensor of the checkpoint, in layer order.
    pub tensors: Vec<TensorFigures>,
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
    /// The last part of its module's name: `q_proj`, `w1`, `norm`, `mm_projector.2`.
    pub module: String,
    /// Whether it is stored as codes.
    pub quantized: bool,
    /// Bytes in the checkpoint.
    pub source_bytes: u64,
    /// Bytes in the bundle, scales included.
    pub bytes: u64,
    /// Signal to noise in dB; null where every value is exact.
    pub sqnr_db: Option<f64>,
    /// Largest absolute error.
    pub max_abs_error: f64,
    /// Cosine between the two; null where one is all zeros.
    pub cosine: Option<f64>,
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
    /// Compares every float tensor, on the current rayon pool. `worst`: how many get a histogram.
    ///
    /// # Errors
    /// [`BundleError::OtherCheckpoint`] where a tensor is missing in the checkpoint or has another shape; reading
    /// errors; [`ConvertError::Interrupted`].
    pub fn compare(
        bundle: &Bundle,
        checkpoint: &Checkpoint,
        worst: usize,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Self> {
        let both = Both { bundle, checkpoint, isa: Isa::detect(), stop };
        let pairs: Vec<(Weight<'_>, &SourceTensor)> =
            bundle.weights().map(|weight| Ok((weight, both.original_of(&weight)?))).collect::<Result<_>>()?;
        let pairs: Vec<_> = pairs.into_iter().filter(|(_, original)| is_castable(original.dtype)).collect();
        progress.begin(Stage::Compare, pairs.iter().map(|(_, original)| original.byte_len).sum());
        let tensors: Vec<TensorFigures> = pairs
            .par_iter()
            .map(|(weight, original)| {
                let mut moments = Moments::default();
                both.walk(weight, original, &mut |before, after| {
                    let largest = f32::from_bits(both.isa.magnitude(before));
                    moments.add(&both.isa.measure(before, after, largest));
                })?;
                progress.advance(original.byte_len);
                Ok(figures(weight, original, &moments))
            })
            .collect::<Result<_>>()?;

        let mut order: Vec<usize> = (0..tensors.len()).filter(|&at| tensors[at].sqnr_db.is_some()).collect();
        order.sort_by(|&a, &b| {
            let sqnr = |at: usize| tensors[at].sqnr_db.unwrap_or(f64::INFINITY);
            sqnr(a).total_cmp(&sqnr(b))
        });
        order.truncate(worst);
        let worst = order
            .par_iter()
            .map(|&at| {
                let (weight, original) = &pairs[at];
                both.histogram(weight, original)
            })
            .collect::<Result<_>>()?;
        progress.finish();
        Ok(Self {
            bundle: bundle.manifest().model.name.clone(),
            id: bundle.id(),
            scheme: bundle.manifest().scheme.name,
            tensors,
            worst,
            profiles: bundle.manifest().device_maps.clone(),
        })
    }
}

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

    /// Walks a tensor before and after, the same elements at a time.
    fn walk(
        &self,
        weight: &Weight<'_>,
        original: &SourceTensor,
        see: &mut dyn FnMut(&[f32], &[f32]),
    ) -> Result<()> {
        let width = original.dtype.bitsize() / 8;
        let (mut bytes, mut before) = (Vec::new(), Vec::new());
        let mut first = 0;
        self.bundle.decode(weight, self.isa, &mut |after| {
            if self.stop.requested() {
                return Err(ConvertError::Interrupted.into());
            }
            bytes.resize(after.len() * width, 0);
            self.checkpoint.read(original, first, &mut bytes)?;
            before.resize(after.len(), 0.0);
            self.isa.widen(original.dtype, &bytes, &mut before);
            first += after.len() as u64;
            see(&before, after);
            Ok(())
        })
    }

    /// Counts the values of a tensor before and after.
    fn histogram(&self, weight: &Weight<'_>, original: &SourceTensor) -> Result<Histogram> {
        let mut largest = 0;
        self.walk(weight, original, &mut |before, _| {
            largest = largest.max(self.isa.magnitude(before));
        })?;
        let limit = f32::from_bits(largest);
        let (mut counted_before, mut counted_after) = (vec![0; BINS], vec![0; BINS]);
        self.walk(weight, original, &mut |before, after| {
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

fn figures(weight: &Weight<'_>, original: &SourceTensor, moments: &Moments) -> TensorFigures {
    let name = weight.name.as_str();
    TensorFigures {
        name: name.to_owned(),
        role: role_of(name),
        module: kind_of(weight.name.module()).to_owned(),
        quantized: weight.parts.len() > 1,
        source_bytes: original.byte_len,
        bytes: weight.byte_len(),
        sqnr_db: moments.sqnr_db(),
        max_abs_error: moments.max_error,
        cosine: moments.cosine(),
    }
}

/// The last part of a module's name, with the one before where that is a number.
fn kind_of(module: &str) -> &str {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match module.rsplit_once('.') {
        Some((before, last)) if is_number(last) => {
            let start = before.rfind('.').map_or(0, |dot| dot + 1);
            module.get(start..).unwrap_or(module)
        }
        Some((_, last)) => last,
        None => module,
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
    fn a_kind_of_module_is_its_name_and_not_a_number() {
        assert_eq!(kind_of("model.layers.3.mlp.up_proj"), "up_proj");
        assert_eq!(kind_of("model.mm_projector.2"), "mm_projector.2");
        assert_eq!((kind_of("7"), kind_of("a.7"), kind_of("")), ("7", "a.7", ""));
    }

    #[test]
    fn zero_has_the_bin_in_the_middle_and_the_ends_are_closed() {
        assert_eq!(bin(0.0, 2.0), BINS / 2);
        assert_eq!(bin(0.0, 0.0), BINS / 2);
        assert_eq!((bin(-2.0, 2.0), bin(2.0, 2.0)), (0, BINS - 1));
        assert_eq!((bin(-3.0, 2.0), bin(f32::MAX, 2.0)), (0, BINS - 1));
    }
}
