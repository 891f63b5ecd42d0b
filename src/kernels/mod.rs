//! The arithmetic on rows of weights: widening, rounding, quantizing, measuring.
//!
//! Kernels know rows and not names: no files, no threads, no schemes. `scalar.rs` is the meaning of every
//! kernel, `lanes.rs` the same functions in a form that compilers vectorise, `avx2.rs` these compiled for AVX2 and
//! in part by hand. An [`Isa`] is proof that the CPU has the instructions, so the
//! choice is made once, at run time. Every path gives the same bits: bundles are hashed.
//! Carries out formats/schemes.md, "Arithmetic".

#[cfg(target_arch = "x86_64")]
mod avx2;
mod lanes;
mod scalar;

use std::fmt;

use crate::tensor::Float;

/// Lanes of the sums behind the error figures; part of the format (the figures are sealed).
pub(crate) const SUM_LANES: usize = 16;

/// Elements summed in f32 before the lanes go to f64; part of the format.
pub(crate) const SUM_BLOCK: usize = 256;

const _: () = assert!(SUM_BLOCK.is_multiple_of(SUM_LANES));

/// An instruction set that this CPU has. Comes only from detection, never from a name alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::all().pop().unwrap_or(Isa(Kind::Scalar))
    }

    /// Every instruction set of this CPU, slowest first. `scalar` is the reference.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Isa(Kind::Scalar), Isa(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c") {
            all.push(Isa(Kind::Avx2));
        }
        all
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|isa| isa.name() == name)
    }

    /// `scalar`, `portable` or `avx2`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
        }
    }

    /// Widens little-endian elements to f32.
    ///
    /// `source`: `row.len()` elements. F64 rounds to nearest even. NaN stays NaN.
    pub fn widen(self, float: Float, source: &[u8], row: &mut [f32]) {
        match self.0 {
            Kind::Scalar => scalar::widen(float, source, row),
            Kind::Portable => lanes::widen(float, source, row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is made only where the CPU was found to have AVX2 and F16C.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::widen(float, source, row) },
        }
    }

    /// The largest magnitude of a row as the bits of an f32 without its sign: 0 for an empty row,
    /// 0x7f80_0000 where an infinity is the largest, above that where there is a NaN.
    pub fn magnitude(self, row: &[f32]) -> u32 {
        match self.0 {
            Kind::Scalar => scalar::magnitude(row),
            Kind::Portable => lanes::magnitude(row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::magnitude(row) },
        }
    }

    /// Rounds each value to nearest even in `float`, little-endian. F32 and F64 hold each as it is.
    ///
    /// `out`: `row.len()` elements of `float`. Overflow gives infinity. A NaN becomes the quiet NaN without
    /// payload of its sign, whatever its bits were.
    pub fn narrow(self, float: Float, row: &[f32], out: &mut [u8]) {
        match self.0 {
            Kind::Scalar => scalar::narrow(float, row, out),
            Kind::Portable => lanes::narrow(float, row, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::narrow(float, row, out) },
        }
    }

    /// Rounds each value to the nearest f16, ties to even, multiplies by `factor` in f32 and rounds half to even:
    /// `codes[i]` is the two's complement byte.
    ///
    /// Requires that no value is a NaN and |f16(value) * factor| < 128: `factor` comes from the row's own magnitude.
    /// Source: bitsandbytes 0.50.2, `int8_vectorwise_quant` on CPU.
    pub fn quantize_f16(self, row: &[f32], factor: f32, codes: &mut [u8]) {
        match self.0 {
            Kind::Scalar => scalar::quantize_f16(row, factor, codes),
            Kind::Portable => lanes::quantize_f16(row, factor, codes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::quantize_f16(row, factor, codes) },
        }
    }

    /// Divides by `scale`, rounds the quotient to `float` (F32 and F64 keep it), clamps to -128..=127 and
    /// rounds half to even. Returns how many quotients were clamped.
    ///
    /// `scale` is finite and not 0, and so is every value; `codes[i]` is the two's complement byte.
    /// Source: compressed-tensors 0.20.0, `quantization/lifecycle/forward.py`, run on CPU.
    pub fn divide(self, float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
        match self.0 {
            Kind::Scalar => scalar::divide(float, row, scale, codes),
            Kind::Portable => lanes::divide(float, row, scale, codes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::divide(float, row, scale, codes) },
        }
    }

    /// Divides by `scale`, rounds the quotient to `float` (F32 and F64 keep it), clamps to -448..=448 and rounds to the
    /// nearest 8-bit float E4M3, ties to even. Returns how many quotients were clamped.
    ///
    /// `scale` is finite and not 0, and so is every value. Source: as [`Isa::divide`]; E4M3 is that of arXiv 2209.05433,
    /// torch's `float8_e4m3fn`.
    pub fn divide_e4m3(self, float: Float, row: &[f32], scale: f32, codes: &mut [u8]) -> u64 {
        match self.0 {
            Kind::Scalar => scalar::divide_e4m3(float, row, scale, codes),
            Kind::Portable => lanes::divide_e4m3(float, row, scale, codes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::divide_e4m3(float, row, scale, codes) },
        }
    }

    /// Back from E4M3: `row[i] = code * step`, in f32. The codes 0x7f and 0xff are NaN.
    pub fn decode_e4m3(self, codes: &[u8], step: f32, row: &mut [f32]) {
        match self.0 {
            Kind::Scalar => scalar::decode_e4m3(codes, step, row),
            Kind::Portable => lanes::decode_e4m3(codes, step, row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::decode_e4m3(codes, step, row) },
        }
    }

    /// Back from codes: `row[i] = code * step`, in f32.
    pub fn decode(self, codes: &[u8], step: f32, row: &mut [f32]) {
        match self.0 {
            Kind::Scalar => scalar::decode(codes, step, row),
            Kind::Portable => lanes::decode(codes, step, row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::decode(codes, step, row) },
        }
    }

    /// How many elements are 0, of either sign. `bytes`: little-endian elements.
    pub fn zeros(self, float: Float, bytes: &[u8]) -> u64 {
        match self.0 {
            Kind::Scalar => scalar::zeros(float, bytes),
            Kind::Portable => lanes::zeros(float, bytes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::zeros(float, bytes) },
        }
    }

    /// How many codes of one byte are 0 where `mask` has ones: all bits of an integer, all but the sign of a float.
    pub fn zero_codes(self, codes: &[u8], mask: u8) -> u64 {
        match self.0 {
            Kind::Scalar => scalar::zero_codes(codes, mask),
            Kind::Portable => lanes::zero_codes(codes, mask),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::zero_codes(codes, mask) },
        }
    }

    /// Sums for the error figures of a row against what it decodes to.
    ///
    /// `largest`: the row's magnitude. Both rows are first scaled by the power of two that brings it into
    /// `[1, 2)`, so that squares neither overflow nor vanish; the scaling is undone in the result.
    pub fn measure(self, original: &[f32], decoded: &[f32], largest: f32) -> Moments {
        let (unit, exponent) = unit_of(largest);
        let moments = match self.0 {
            Kind::Scalar => scalar::measure(original, decoded, unit),
            Kind::Portable => lanes::measure(original, decoded, unit),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `widen`.
            #[allow(unsafe_code)]
            Kind::Avx2 => unsafe { avx2::measure(original, decoded, unit) },
        };
        moments.scaled(exponent)
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sums over a tensor from which its error figures follow. Adding rows in order keeps them reproducible.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Sum of the squared originals.
    pub signal: f64,
    /// Sum of the squared decoded values.
    pub coded: f64,
    /// Sum of the squared errors.
    pub noise: f64,
    /// Largest absolute error.
    pub max_error: f64,
}

impl Moments {
    fn from_lanes(lanes: &[[f64; SUM_LANES]; 3], max_error: f32) -> Self {
        let [signal, coded, noise] = lanes.map(|lanes| lanes.into_iter().fold(0.0, |sum, lane| sum + lane));
        Self { signal, coded, noise, max_error: f64::from(max_error) }
    }

    /// Undoes a scaling by `2^-exponent` of the values.
    fn scaled(self, exponent: i32) -> Self {
        let factor = power_of_two(exponent);
        Self {
            signal: self.signal * factor * factor,
            coded: self.coded * factor * factor,
            noise: self.noise * factor * factor,
            max_error: self.max_error * factor,
        }
    }

    /// Adds the sums of the next row.
    pub fn add(&mut self, next: &Moments) {
        self.signal += next.signal;
        self.coded += next.coded;
        self.noise += next.noise;
        self.max_error = self.max_error.max(next.max_error);
    }

    /// Signal to quantization noise in dB; `None` where there is no noise (exact) or no signal.
    pub fn sqnr_db(&self) -> Option<f64> {
        (self.noise > 0.0 && self.signal > 0.0).then(|| 10.0 * libm::log10(self.signal / self.noise))
    }

    /// Cosine between originals and decoded values, at most 1; `None` where either is all zeros.
    pub fn cosine(&self) -> Option<f64> {
        let norms = libm::sqrt(self.signal) * libm::sqrt(self.coded);
        (norms > 0.0).then(|| ((self.signal + self.coded - self.noise) / 2.0 / norms).min(1.0))
    }
}

/// The power of two (as a factor and its negated exponent) that brings `largest` into `[1, 2)`.
fn unit_of(largest: f32) -> (f32, i32) {
    let exponent = ((largest.to_bits() >> 23) & 0xff).cast_signed().clamp(1, 253) - 127;
    (power_of_two(-exponent) as f32, exponent)
}

/// 2^exponent for the exponents of f32, exactly.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(u64::from((exponent + 1023).cast_unsigned()) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPECIAL: [u32; 26] = [
        0x0000_0000,
        0x8000_0000,
        0x0000_0001,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x3300_0000,
        0x3300_0001,
        0x3380_0000,
        0x33c0_0000,
        0x387f_e000,
        0x387f_ffff,
        0x3880_0000,
        0x477f_e000,
        0x477f_efff,
        0x477f_f000,
        0x4780_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7f80_0001,
        0x7fff_ffff,
        0xffff_ffff,
        0x7fc0_0000,
        0x3f80_8000,
        0x3f81_8000,
    ];

    fn any_bits() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => any::<u32>().prop_map(f32::from_bits),
            1 => proptest::sample::select(&SPECIAL[..]).prop_map(f32::from_bits),
            3 => -8f32..8f32,
        ]
    }

    fn bits(row: &[f32]) -> Vec<u32> {
        row.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn more_than_the_reference_runs_on_this_machine() {
        assert!(Isa::all().len() >= 2);
        assert_eq!(Isa::by_name("scalar"), Some(Isa(Kind::Scalar)));
        assert_eq!(Isa::by_name("sse9"), None);
    }

    #[test]
    fn every_f16_widens_the_same_and_as_its_definition_says() {
        let source: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for isa in Isa::all() {
            let mut row = vec![0f32; 1 << 16];
            isa.widen(Float::F16, &source, &mut row);
            for (code, value) in (0..=u16::MAX).zip(&row) {
                let (sign, exponent, mantissa) = (code >> 15, (code >> 10) & 31, f64::from(code & 1023));
                let magnitude = match exponent {
                    0 => mantissa * power_of_two(-24),
                    31 if mantissa == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    _ => (1024.0 + mantissa) * power_of_two(i32::from(exponent) - 25),
                };
                let expected = if sign == 1 { -magnitude } else { magnitude };
                assert!(
                    (expected.is_nan() && value.is_nan())
                        || f64::from(*value).to_bits() == expected.to_bits(),
                    "{isa:?} widens {code:#06x} to {value}, not {expected}"
                );
            }
        }
    }

    /// Each of the 256 codes decodes to the number that its bits are, and that number is rounded to the code again; numbers
    /// halfway between two go to the even one.
    #[test]
    fn every_e4m3_is_what_its_bits_say_and_the_nearest_is_taken() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let number = |code: u8| {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            let magnitude = match exponent {
                0 => mantissa * power_of_two(-9),
                _ => (8.0 + mantissa) * power_of_two(exponent - 10),
            };
            (if code & 0x80 == 0 { magnitude } else { -magnitude }) as f32
        };
        for isa in Isa::all() {
            let mut values = [0f32; 256];
            isa.decode_e4m3(&codes, 1.0, &mut values);
            for &code in &codes {
                let value = values[usize::from(code)];
                if code & 0x7f == 0x7f {
                    assert!(value.is_nan(), "{isa:?} {code:#x}");
                    continue;
                }
                assert_eq!(value.to_bits(), number(code).to_bits(), "{isa:?} {code:#x}");
                let mut found = [0];
                assert_eq!(isa.divide_e4m3(Float::F32, &[value], 1.0, &mut found), 0);
                assert_eq!(found[0], code, "{isa:?}");
                if code & 0x7f < 0x7e {
                    let half = (value + number(code + 1)) / 2.0;
                    let even = code + (code & 1);
                    let row = [half, half.next_down(), half.next_up()];
                    let away = if value.is_sign_negative() { [code + 1, code] } else { [code, code + 1] };
                    let mut found = [0; 3];
                    isa.divide_e4m3(Float::F32, &row, 1.0, &mut found);
                    assert_eq!(found, [even, away[0], away[1]], "{isa:?} {half}");
                }
            }
        }
    }

    /// More zeros than a byte counts, and both signs of them.
    #[test]
    fn every_zero_is_counted() {
        for isa in Isa::all() {
            for float in [Float::F16, Float::BF16, Float::F32, Float::F64] {
                let mut bytes = vec![0; 3000 * float.byte_len()];
                assert_eq!(isa.zeros(float, &bytes), 3000, "{isa:?} {float:?}");
                bytes[0] = 1;
                bytes[3000 * float.byte_len() - 1] = 0x80;
                assert_eq!(isa.zeros(float, &bytes), 2999, "{isa:?} {float:?}");
            }
            let mut codes = vec![0; 3000];
            (codes[0], codes[2999]) = (1, 0x80);
            assert_eq!(isa.zero_codes(&codes, 0xff), 2998, "{isa:?}");
            assert_eq!(isa.zero_codes(&codes, 0x7f), 2999, "{isa:?}");
        }
    }

    #[test]
    fn narrowing_meets_the_published_edges() {
        for isa in Isa::all() {
            let row = [
                65504.0,
                65519.996,
                65520.0,
                -65520.0,
                f32::from_bits(0x3300_0000),
                f32::from_bits(0x3300_0001),
                -0.0,
            ];
            let mut out = [0u8; 14];
            isa.narrow(Float::F16, &row, &mut out);
            let codes: Vec<u16> = out.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
            assert_eq!(codes, [0x7bff, 0x7bff, 0x7c00, 0xfc00, 0, 1, 0x8000], "{isa:?}");
            let row = [f32::MAX, f32::from_bits(0x7f80_0001), f32::from_bits(0x7fff_ffff), -f32::MAX];
            let mut out = [0u8; 8];
            isa.narrow(Float::BF16, &row, &mut out);
            let codes: Vec<u16> = out.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
            assert_eq!(codes, [0x7f80, 0x7fc0, 0x7fc0, 0xff80], "{isa:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_instruction_set_gives_the_bits_of_scalar(
            row in proptest::collection::vec(any_bits(), 0..=3 * SUM_BLOCK + 1),
            step in 1e-6f32..10.0,
        ) {
            let reference = Isa(Kind::Scalar);
            let wide: Vec<u8> = row.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
            let finite: Vec<f32> = row.iter().map(|v| if v.is_finite() { *v } else { 0.5 }).collect();
            let largest = f32::from_bits(reference.magnitude(&finite));
            for isa in Isa::all() {
                let mut narrowed = [vec![0u8; row.len() * 8], vec![0u8; row.len() * 8]];
                for float in [Float::F16, Float::BF16, Float::F32, Float::F64] {
                    isa.narrow(float, &row, &mut narrowed[0]);
                    reference.narrow(float, &row, &mut narrowed[1]);
                    prop_assert_eq!(&narrowed[0], &narrowed[1]);
                    prop_assert_eq!(isa.zeros(float, &narrowed[0]), reference.zeros(float, &narrowed[0]));
                    let mut widened = [vec![0f32; row.len()], vec![0f32; row.len()]];
                    isa.widen(float, &narrowed[0], &mut widened[0]);
                    reference.widen(float, &narrowed[0], &mut widened[1]);
                    prop_assert_eq!(bits(&widened[0]), bits(&widened[1]));
                }
                let mut widened = [vec![0f32; row.len()], vec![0f32; row.len()]];
                isa.widen(Float::F64, &wide, &mut widened[0]);
                reference.widen(Float::F64, &wide, &mut widened[1]);
                prop_assert_eq!(bits(&widened[0]), bits(&widened[1]));
                prop_assert_eq!(isa.magnitude(&row), reference.magnitude(&row));
                prop_assert_eq!(isa.zeros(Float::F64, &wide), reference.zeros(Float::F64, &wide));
                for mask in [0xff, 0x7f] {
                    prop_assert_eq!(isa.zero_codes(&wide, mask), reference.zero_codes(&wide, mask));
                }

                let mut codes = [vec![0u8; row.len()], vec![0u8; row.len()]];
                let within: Vec<f32> = finite.iter().map(|v| v.clamp(-65504.0, 65504.0)).collect();
                let most = half::f16::from_f32(f32::from_bits(reference.magnitude(&within))).to_f32();
                let factor = if most > 0.0 { (1.0 / most) * 127.0 } else { 0.0 };
                isa.quantize_f16(&within, factor, &mut codes[0]);
                reference.quantize_f16(&within, factor, &mut codes[1]);
                prop_assert_eq!(&codes[0], &codes[1]);
                for float in [Float::BF16, Float::F16, Float::F32] {
                    let clamped = isa.divide(float, &finite, step, &mut codes[0]);
                    prop_assert_eq!(clamped, reference.divide(float, &finite, step, &mut codes[1]));
                    prop_assert_eq!(&codes[0], &codes[1]);
                }
                for float in [Float::BF16, Float::F16, Float::F32] {
                    let clamped = isa.divide_e4m3(float, &finite, step, &mut codes[0]);
                    prop_assert_eq!(clamped, reference.divide_e4m3(float, &finite, step, &mut codes[1]));
                    prop_assert_eq!(&codes[0], &codes[1]);
                }
                let mut decoded = [vec![0f32; row.len()], vec![0f32; row.len()]];
                isa.decode_e4m3(&wide[..row.len()], step, &mut decoded[0]);
                reference.decode_e4m3(&wide[..row.len()], step, &mut decoded[1]);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                prop_assert!(decoded[0].iter().zip(&decoded[1]).all(same));
                isa.decode(&codes[0], step, &mut decoded[0]);
                reference.decode(&codes[0], step, &mut decoded[1]);
                prop_assert_eq!(bits(&decoded[0]), bits(&decoded[1]));
                prop_assert_eq!(
                    isa.measure(&finite, &decoded[0], largest),
                    reference.measure(&finite, &decoded[0], largest)
                );
            }
        }
    }

    #[test]
    fn the_figures_of_a_known_row_are_right() {
        let original: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 1e30).collect();
        let decoded: Vec<f32> = original.iter().map(|v| v + 1e30).collect();
        let moments = Isa::detect().measure(&original, &decoded, 500.0 * 1e30);
        let signal: f64 = original.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((moments.signal / signal - 1.0).abs() < 1e-6);
        assert!((moments.noise / 1e63 - 1.0).abs() < 1e-3, "{}", moments.noise);
        assert!((moments.max_error / 1e30 - 1.0).abs() < 1e-4);
        let cosine = moments.cosine().unwrap();
        assert!((0.99999..=1.0).contains(&cosine), "{cosine}");
    }
}
