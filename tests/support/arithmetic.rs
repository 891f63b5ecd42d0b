//! The arithmetic of the schemes once more, from its description and not from `src/kernels`: by the
//! definition of the number formats, in f64, one value at a time.
//!
//! Source: what bitsandbytes, llm-compressor and torch compute on a CPU; formats/schemes.md.

use std::collections::BTreeMap;

use safetensors::Dtype;

use crate::world::Tensor;

/// Name to type, shape and bytes.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Cast(Dtype),
    Bnb,
    W8A8,
    W8A16,
}

/// Bits of the mantissa, smallest and largest exponent of a binary format.
struct Format(i32, i32, i32);

fn format(dtype: Dtype) -> Format {
    match dtype {
        Dtype::F16 => Format(10, -14, 15),
        Dtype::BF16 => Format(7, -126, 127),
        Dtype::F32 => Format(23, -126, 127),
        other => panic!("{other:?}"),
    }
}

/// To the nearest integer, ties to even.
fn rint(value: f64) -> f64 {
    let low = value.floor();
    match value - low {
        part if part < 0.5 => low,
        part if part > 0.5 => low + 1.0,
        _ if low % 2.0 == 0.0 => low,
        _ => low + 1.0,
    }
}

/// 2 to a power that is normal in f64.
fn two(power: i32) -> f64 {
    f64::from_bits(((power + 1023) as u64) << 52)
}

/// The power of two just below a normal magnitude, but not below `smallest`.
fn exponent(magnitude: f64, smallest: i32) -> i32 {
    (((magnitude.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(smallest)
}

/// The nearest value of a format, ties to even; infinite beyond its range.
pub(crate) fn round(value: f64, dtype: Dtype) -> f64 {
    let Format(bits, smallest, largest) = format(dtype);
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let step = two(exponent(value.abs(), smallest) - bits);
    let rounded = rint(value / step) * step;
    let rounded = if rounded.abs() >= two(largest + 1) { f64::INFINITY } else { rounded.abs() };
    rounded.copysign(value)
}

/// The bytes of a value that the format holds.
fn encode(value: f64, dtype: Dtype) -> Vec<u8> {
    let Format(bits, smallest, largest) = format(dtype);
    let width = dtype.bitsize();
    let magnitude = value.abs();
    assert!(!value.is_nan());
    let code = if magnitude.is_infinite() {
        ((largest - smallest + 2) as u64) << bits
    } else if magnitude < two(smallest) {
        (magnitude / two(smallest - bits)) as u64
    } else {
        let exponent = exponent(magnitude, smallest);
        let fraction = magnitude / two(exponent) - 1.0;
        (((exponent - smallest + 1) as u64) << bits) + (fraction * two(bits)) as u64
    };
    let sign = u64::from(value.is_sign_negative()) << (width - 1);
    (code | sign).to_le_bytes()[..width / 8].to_vec()
}

/// Values of a tensor, exactly.
pub(crate) fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    if dtype == Dtype::F64 {
        return bytes.chunks(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap())).collect();
    }
    let Format(bits, smallest, largest) = format(dtype);
    let width = dtype.bitsize();
    let decode = |chunk: &[u8]| {
        let code = chunk.iter().rev().fold(0u64, |code, byte| code << 8 | u64::from(*byte));
        let exponent = ((code << 1) & ((1 << width) - 1)) >> (bits + 1);
        let fraction = (code & ((1 << bits) - 1)) as f64 * two(-bits);
        let magnitude = match exponent as i32 {
            0 => fraction * two(smallest),
            top if top == largest - smallest + 2 => {
                if fraction == 0.0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            other => (1.0 + fraction) * two(other - 1 + smallest),
        };
        if code >> (width - 1) == 1 { -magnitude } else { magnitude }
    };
    bytes.chunks(width / 8).map(decode).collect()
}

/// Bytes of values in a type, each rounded to it.
pub(crate) fn encoded(values: &[f64], dtype: Dtype) -> Vec<u8> {
    if dtype == Dtype::F64 {
        return values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    values.iter().flat_map(|value| encode(round(*value, dtype), dtype)).collect()
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Every cast goes through f32, as torch's do: an F64 is rounded twice.
fn cast(value: f64, dtype: Dtype) -> f64 {
    round(round(value, Dtype::F32), dtype)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// f32 arithmetic: an exact operation in f64 rounded once (53 bits are more than twice 24 and two).
fn f32_of(value: f64) -> f64 {
    round(value, Dtype::F32)
}

/// What a bundle must hold for the tensors of a checkpoint.
pub(crate) fn expected(sources: &[Tensor], kind: Kind) -> Tensors {
    let mut found = Tensors::new();
    for source in sources {
        let mut add = |name: String, dtype, shape: Vec<usize>, bytes| {
            assert!(found.insert(name, (dtype, shape, bytes)).is_none());
        };
        let module = source.name.strip_suffix(".weight").unwrap_or(&source.name);
        let columns = source.shape.last().copied().unwrap_or(1);
        let takes = match kind {
            Kind::Cast(_) => false,
            Kind::Bnb => source.linear,
            Kind::W8A8 => source.linear && source.dtype != Dtype::F64,
            Kind::W8A16 => source.linear && source.dtype != Dtype::F64 && columns % 128 == 0,
        };
        if takes {
            let rows = source.shape[0];
            let weights = values(source.dtype, &source.bytes);
            let (codes, scales) = match kind {
                Kind::Bnb => bnb(&weights, columns),
                Kind::W8A16 => compressed(&weights, 128, source.dtype),
                _ => compressed(&weights, columns, source.dtype),
            };
            let shape = vec![rows, columns];
            let bytes = |flip: u8| codes.iter().map(|code| *code as i8 as u8 ^ flip).collect::<Vec<u8>>();
            match kind {
                Kind::Bnb => {
                    add(format!("{module}.weight"), Dtype::I8, shape, bytes(0));
                    add(format!("{module}.SCB"), Dtype::F32, vec![rows], encoded(&scales, Dtype::F32));
                    add(format!("{module}.weight_format"), Dtype::U8, vec![], vec![0]);
                }
                Kind::W8A8 => {
                    add(format!("{module}.weight"), Dtype::I8, shape, bytes(0));
                    let scales = encoded(&scales, source.dtype);
                    add(format!("{module}.weight_scale"), source.dtype, vec![rows, 1], scales);
                }
                _ => {
                    add(format!("{module}.weight_packed"), Dtype::I32, vec![rows, columns / 4], bytes(0x80));
                    let scales = encoded(&scales, source.dtype);
                    add(format!("{module}.weight_scale"), source.dtype, vec![rows, columns / 128], scales);
                    let dims =
                        [rows as i64, columns as i64].iter().flat_map(|dim| dim.to_le_bytes()).collect();
                    add(format!("{module}.weight_shape"), Dtype::I64, vec![2], dims);
                }
            }
        } else {
            match kind {
                Kind::Cast(to) if is_float(source.dtype) && source.dtype != to => {
                    let values = values(source.dtype, &source.bytes);
                    let bytes = values.iter().flat_map(|value| encode(cast(*value, to), to)).collect();
                    add(source.name.clone(), to, source.shape.clone(), bytes);
                }
                _ => add(source.name.clone(), source.dtype, source.shape.clone(), source.bytes.clone()),
            }
        }
    }
    found
}

/// bitsandbytes: through f16; the factor is rounded twice; SCB is the row's magnitude.
fn bnb(weights: &[f64], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in weights.chunks(columns) {
        let row: Vec<f64> = row.iter().map(|value| cast(*value, Dtype::F16)).collect();
        let largest = largest(&row);
        let factor = if largest == 0.0 { 0.0 } else { f32_of(f32_of(1.0 / largest) * 127.0) };
        codes.extend(row.iter().map(|value| rint(f32_of(value * factor))));
        scales.push(largest);
    }
    (codes, scales)
}

/// compressed-tensors: scale and quotient are rounded to the weight's type; a scale of 0 becomes its epsilon.
fn compressed(weights: &[f64], group: usize, dtype: Dtype) -> (Vec<f64>, Vec<f64>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in weights.chunks(group) {
        let mut scale = round(f32_of(largest(row) / 127.5), dtype);
        if scale == 0.0 {
            scale = two(-format(dtype).0);
        }
        let quotient = |value: &f64| round(f32_of(value / scale), dtype);
        codes.extend(row.iter().map(|value| rint(quotient(value).clamp(-128.0, 127.0))));
        scales.push(scale);
    }
    (codes, scales)
}
