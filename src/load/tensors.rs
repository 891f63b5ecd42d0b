//! Candle's tensors from what a bundle stores: values as they are, quantized weights in one of several forms.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::LoadOptions;
use crate::bundle::{Bundle, Coded, Weight};
use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::error::{LoadError, Result};
use crate::manifest::TensorRecord;
use crate::scheme::PartKind;
use crate::tensor::{Dtype, element_count};

/// Codes of one block of Q8_0, which share a scale.
const Q8_0_LEN: u64 = 32;
/// Bytes of one block of Q8_0: the scale in half precision, then the codes.
const Q8_0_BYTES: u64 = 2 + Q8_0_LEN;

/// What quantized weights become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Codes and scales, as they are stored.
    #[default]
    Codes,
    /// Values, decoded as schemes.md says and rounded to bf16, f16 or f32.
    Values(DType),
    /// Candle's `Q8_0`: the same codes in blocks of 32, each with the scale rounded to half precision. A weight
    /// whose columns are no multiple of 32 becomes values in f16.
    Q8_0,
}

/// A tensor of the checkpoint, on its device.
#[derive(Debug)]
pub enum Stored {
    /// Values.
    Values(Tensor),
    /// Codes and scales of a quantized weight.
    Codes {
        /// `[rows, columns]` in U8, each a signed byte in two's complement (candle has no signed bytes); for
        /// W8A16 `[rows, columns / 4]` in I32, four codes plus 128 in each.
        codes: Tensor,
        /// The scales in their own type and shape: schemes.md says how codes are multiplied with them.
        scales: Tensor,
    },
    /// A quantized weight for candle's matrix products.
    Quantized(QTensor),
}

impl Form {
    /// Bytes that a weight takes on a device in this form.
    pub fn placed_len(self, weight: &Weight<'_>) -> u64 {
        let Some(Coded { codes, scales, .. }) = weight.coded() else { return weight.byte_len() };
        let elements = element_count(&weight.shape()).unwrap_or(u64::MAX);
        match self {
            Form::Codes => byte_len(codes).saturating_add(byte_len(scales)),
            Form::Q8_0 if is_blocked(weight) => elements / Q8_0_LEN * Q8_0_BYTES,
            Form::Q8_0 => elements.saturating_mul(2),
            Form::Values(dtype) => elements.saturating_mul(dtype.size_in_bytes() as u64),
        }
    }
}

/// Loads one weight.
pub(super) fn load(
    bundle: &Bundle,
    weight: &Weight<'_>,
    options: &LoadOptions,
    device: &Device,
) -> Result<Stored> {
    let Some(coded) = weight.coded() else {
        let record = weight.parts.first().ok_or_else(|| LoadError::NotInMap { module: String::new() })?;
        return Ok(Stored::Values(raw(bundle, record, device)?));
    };
    match options.form {
        Form::Codes => {
            let (codes, scales) = (raw(bundle, coded.codes, device)?, raw(bundle, coded.scales, device)?);
            Ok(Stored::Codes { codes, scales })
        }
        Form::Q8_0 if is_blocked(weight) => {
            q8_0(bundle, weight, &coded, options, device).map(Stored::Quantized)
        }
        Form::Q8_0 => decoded(bundle, weight, DType::F16, options, device).map(Stored::Values),
        Form::Values(dtype) => decoded(bundle, weight, dtype, options, device).map(Stored::Values),
    }
}

/// Whether its codes are those of Q8_0: signed bytes, of which each block of 32 has one scale.
fn is_blocked(weight: &Weight<'_>) -> bool {
    weight.coded().is_some_and(|Coded { codec, columns, tile, .. }| {
        let fits = |len: u64| len > 0 && len.is_multiple_of(Q8_0_LEN);
        fits(columns) && fits(tile.columns) && codec.int8_codes(&mut [])
    })
}

/// A stored tensor with its own bytes, or the next wider type where candle has none.
fn raw(bundle: &Bundle, record: &TensorRecord, device: &Device) -> Result<Tensor> {
    let bytes = bundle.read(record)?;
    let is_codes = record.kind == PartKind::Codes;
    of_bytes(record.name.as_str(), record.dtype, &record.shape, is_codes, &bytes, device)
}

/// Loads a tensor of a tower's own file. `name`: what it is called in the model.
pub(super) fn load_source(
    file: &Checkpoint,
    tensor: &SourceTensor,
    name: &str,
    device: &Device,
) -> Result<Stored> {
    let mut bytes = vec![0; usize::try_from(tensor.byte_len).unwrap_or(usize::MAX)];
    file.read(tensor, 0, &mut bytes)?;
    of_bytes(name, tensor.dtype, &tensor.shape, false, &bytes, device).map(Stored::Values)
}

fn of_bytes(
    name: &str,
    dtype: Dtype,
    shape: &[u64],
    is_codes: bool,
    bytes: &[u8],
    device: &Device,
) -> Result<Tensor> {
    let failed = |error: candle_core::Error| candle(name, &error);
    let shape = dims(shape);
    let dtype = match dtype {
        // Codes keep their bits; other signed bytes are numbers to be computed with.
        Dtype::I8 if !is_codes => {
            let wide: Vec<i16> = bytes.iter().map(|&byte| i16::from(byte.cast_signed())).collect();
            return Ok(Tensor::from_vec(wide, shape, device).map_err(failed)?);
        }
        Dtype::I8 | Dtype::U8 | Dtype::BOOL => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F8_E4M3 => DType::F8E4M3,
        dtype => return Err(LoadError::Dtype { tensor: name.to_owned(), dtype }.into()),
    };
    Ok(Tensor::from_raw_buffer(bytes, dtype, &shape, device).map_err(failed)?)
}

fn decoded(
    bundle: &Bundle,
    weight: &Weight<'_>,
    dtype: DType,
    options: &LoadOptions,
    device: &Device,
) -> Result<Tensor> {
    let failed = |error: candle_core::Error| candle(weight.name.as_str(), &error);
    let shape = dims(&weight.shape());
    let tensor = match dtype {
        DType::BF16 => Tensor::from_vec(collect(bundle, weight, options, bf16::from_f32)?, shape, device),
        DType::F16 => Tensor::from_vec(collect(bundle, weight, options, f16::from_f32)?, shape, device),
        _ => Tensor::from_vec(collect(bundle, weight, options, |value| value)?, shape, device)
            .and_then(|tensor| tensor.to_dtype(dtype)),
    };
    Ok(tensor.map_err(failed)?)
}

fn collect<T>(
    bundle: &Bundle,
    weight: &Weight<'_>,
    options: &LoadOptions,
    round: impl Fn(f32) -> T,
) -> Result<Vec<T>> {
    let count = element_count(&weight.shape()).unwrap_or(0);
    let mut values = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    bundle.decode(weight, options.isa, &mut |row| {
        values.extend(row.iter().map(|&value| round(value)));
        Ok(())
    })?;
    Ok(values)
}

/// The same codes in blocks of Q8_0, whose decoded value is `code * scale` too.
fn q8_0(
    bundle: &Bundle,
    weight: &Weight<'_>,
    coded: &Coded<'_>,
    options: &LoadOptions,
    device: &Device,
) -> Result<QTensor> {
    let Coded { codec, codes, rows, columns, tile, .. } = *coded;
    let steps = bundle.steps(coded, options.isa)?;
    let across = columns.div_ceil(tile.columns) as usize;
    let mut blocks = Vec::with_capacity(usize::try_from(Form::Q8_0.placed_len(weight)).unwrap_or(0));
    for row in 0..rows {
        let mut codes = bundle.read_at(codes, codes.range[0] + row * columns, columns)?;
        codec.int8_codes(&mut codes);
        let steps = steps.chunks(across).nth((row / tile.rows) as usize).unwrap_or_default();
        for (codes, step) in codes.chunks(tile.columns as usize).zip(steps) {
            for block in codes.chunks(Q8_0_LEN as usize) {
                blocks.extend(f16::from_f32(*step).to_le_bytes());
                blocks.extend(block);
            }
        }
    }
    let storage = QStorage::from_data(blocks.into(), device, GgmlDType::Q8_0);
    let tensor = storage.and_then(|storage| QTensor::new(storage, dims(&weight.shape())));
    Ok(tensor.map_err(|error| candle(weight.name.as_str(), &error))?)
}

fn byte_len(record: &TensorRecord) -> u64 {
    record.range[1].saturating_sub(record.range[0])
}

/// A shape of a tensor that is in memory, or about to be.
fn dims(shape: &[u64]) -> Vec<usize> {
    shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect()
}

fn candle(tensor: &str, error: &candle_core::Error) -> LoadError {
    LoadError::Candle { tensor: tensor.to_owned(), why: error.to_string() }
}
