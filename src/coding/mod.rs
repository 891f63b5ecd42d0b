//! Codings: how other programs store a weight as codes and scales, one file a coding.
//!
//! A [`Coding`] says which stored tensors are one weight, and decodes them. What a checkpoint holds is judged by names, types
//! and what lies beside; config.json only decides what these leave open. `grid` walks codes and scales, `settings` reads
//! the keys, `unread` names what is refused. Outside this folder nothing asks which coding it is. Pure: bytes come through
//! [`Parts`]. Carries out formats/schemes.md, "Decoding".

mod bnb;
mod fp8;
mod grid;
mod int8;
mod mxfp4;
mod packed;
mod settings;
mod unread;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

pub(crate) use grid::{Grid, SCRATCH_LEN, ZeroPoints};
pub(crate) use settings::{BESIDE, Settings, is_key};

use crate::error::{CodesError, Result};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float, TensorName, element_count};

/// Every coding; the first that knows a tensor counts.
static ALL: [&dyn Coding; 5] = [&bnb::Bnb, &mxfp4::Mxfp4, &fp8::Fp8, &int8::Int8, &packed::Packed];

/// A way to store a weight as codes: the one place that knows its tensors and its arithmetic.
pub(crate) trait Coding: fmt::Debug + Sync {
    /// What it is called in messages: `FP8`.
    fn name(&self) -> &'static str;

    /// The arithmetic's name in schemes.md.
    fn arithmetic(&self) -> &'static str;

    /// The weight whose codes the stored tensor at `at` holds; `None` where it holds none of this coding.
    ///
    /// # Errors
    /// What is wrong with it or with what belongs to it.
    fn find(&self, headers: &Headers<'_>, at: usize) -> Option<Result<CodedWeight, CodesError>>;

    /// Codes of a byte each from bytes of a stored row, where they are stored otherwise. `skip`: bits before the first.
    ///
    /// False, and nothing done, where a stored byte is a code.
    fn unpack(&self, _bits: u64, _bytes: &[u8], _skip: u64, _codes: &mut [u8]) -> bool {
        false
    }

    /// Decodes codes of a byte each that share a step.
    fn decode(&self, isa: Isa, codes: &[u8], step: Step, row: &mut [f32]);
}

/// What codes are decoded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The scale, widened.
    pub(crate) scale: f32,
    /// What is taken away from a code before it is multiplied.
    pub(crate) zero: f32,
}

/// Reads the stored tensors of one weight.
pub(crate) trait Parts {
    /// Fills `buf` from element `first` of the part on, in the order of [`CodedWeight::parts`].
    ///
    /// # Errors
    /// What reading meets.
    fn read(&self, part: usize, first: u64, buf: &mut [u8]) -> Result<()>;

    /// The name of a part, for errors.
    fn name(&self, part: usize) -> &str;
}

/// A stored tensor, as a header describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its element type.
    pub(crate) dtype: Dtype,
    /// Its shape.
    pub(crate) shape: &'a [u64],
}

/// Gives the whole numbers of a small stored tensor, where it can be read now.
type Numbers<'a> = dyn Fn(usize) -> Option<Vec<u64>> + 'a;

/// The stored tensors of a checkpoint, and what its configuration says of them.
pub(crate) struct Headers<'a> {
    list: Vec<Header<'a>>,
    places: HashMap<&'a str, usize>,
    settings: &'a Settings,
    numbers: &'a Numbers<'a>,
}

impl<'a> Headers<'a> {
    /// All tensors of a checkpoint.
    pub(crate) fn new(list: Vec<Header<'a>>, settings: &'a Settings, numbers: &'a Numbers<'a>) -> Self {
        let places = list.iter().enumerate().map(|(at, header)| (header.name, at)).collect();
        Self { list, places, settings, numbers }
    }

    fn get(&self, at: usize) -> Header<'a> {
        self.list.get(at).copied().unwrap_or(Header { name: "", dtype: Dtype::U8, shape: &[] })
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The first of these names that is there.
    fn first_of(&self, names: impl IntoIterator<Item = String>) -> Option<usize> {
        names.into_iter().find_map(|name| self.place(&name))
    }

    /// What belongs to a module beside its codes and scales, and means nothing without them.
    fn beside(&self, module: &str, parts: &[usize]) -> Vec<usize> {
        let named = BESIDE_CODES.iter().filter_map(|end| self.place(&format!("{module}.{end}")));
        named.filter(|at| !parts.contains(at)).collect()
    }
}

/// The last parts of names of what quantizers leave beside a weight.
const BESIDE_CODES: [&str; 16] = [
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_shape",
    "weight_format",
    "weight_global_scale",
    "input_scale",
    "input_scale_inv",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "scale_input",
    "scale_weight",
    "SCB",
];

/// One weight that is stored as codes.
#[derive(Clone, Debug)]
pub(crate) struct CodedWeight {
    /// How.
    pub(crate) coding: &'static dyn Coding,
    /// Its name as a float tensor.
    pub(crate) name: TensorName,
    /// Its shape, of the values as they are decoded.
    pub(crate) shape: Vec<u64>,
    /// The type that its values are defined in, where that is a rounded one; `None` for binary32, which a reader rounds to
    /// the model's type.
    pub(crate) rounded: Option<Float>,
    /// The stored tensors that it is decoded from: codes, scales and perhaps zero points.
    pub(crate) parts: Vec<usize>,
    /// What else is stored for it.
    pub(crate) beside: Vec<usize>,
    /// How codes and scales lie.
    pub(crate) grid: Grid,
    /// The class that loads it has the last two dimensions the other way round.
    pub(crate) is_transposed: bool,
}

impl PartialEq for CodedWeight {
    fn eq(&self, other: &Self) -> bool {
        self.coding.arithmetic() == other.coding.arithmetic()
            && (&self.name, &self.shape, &self.parts, &self.grid)
                == (&other.name, &other.shape, &other.parts, &other.grid)
    }
}

impl Eq for CodedWeight {}

impl CodedWeight {
    /// Decodes elements from `first` on, as many as `row` has, in binary32.
    ///
    /// # Errors
    /// [`CodesError::BadScale`]; what reading meets.
    pub(crate) fn decode(&self, parts: &dyn Parts, isa: Isa, first: u64, row: &mut [f32]) -> Result<()> {
        grid::decode(self.coding, &self.grid, parts, isa, first, row)
    }
}

/// Whether codes have this type: a checkpoint without one has none.
pub(crate) fn may_be_codes(dtype: Dtype) -> bool {
    !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::BOOL)
}

/// What the stored tensors of a checkpoint are.
#[derive(Debug, Default)]
pub(crate) struct Recognized {
    /// Weights that are decoded.
    pub(crate) weights: Vec<CodedWeight>,
    /// Tensors that belong to no weight that is there, and only say how one was quantized.
    pub(crate) left: Vec<usize>,
}

/// Recognizes what is stored as codes.
///
/// # Errors
/// [`CodesError`] for the first tensor that holds codes that are not read, or are not sound.
pub(crate) fn recognize(headers: &Headers<'_>) -> Result<Recognized, CodesError> {
    let mut found = Recognized::default();
    for at in 0..headers.list.len() {
        if let Some(refusal) = unread::refusal(headers, at) {
            return Err(refusal);
        }
        if let Some(weight) = ALL.iter().find_map(|coding| coding.find(headers, at)) {
            found.weights.push(weight?);
        }
    }
    let taken: HashSet<usize> =
        found.weights.iter().flat_map(|weight| weight.parts.iter().chain(&weight.beside)).copied().collect();
    for at in (0..headers.list.len()).filter(|at| !taken.contains(at)) {
        if let Some(unknown) = unread::unknown(headers, at) {
            return Err(unknown);
        }
        if (headers.settings.is_there() || !taken.is_empty()) && is_beside_floats(headers, at) {
            found.left.push(at);
        }
    }
    if found.weights.is_empty() {
        return Ok(found);
    }
    let mut names = HashSet::new();
    let kept = (0..headers.list.len()).filter(|at| !taken.contains(at)).map(|at| headers.get(at).name);
    for name in found.weights.iter().map(|weight| weight.name.as_str()).chain(kept) {
        if !names.insert(name) {
            return Err(CodesError::TwoOfOne { tensor: name.to_owned() });
        }
    }
    Ok(found)
}

/// Whether it says how a weight was quantized that is a float by now, or that is not there.
fn is_beside_floats(headers: &Headers<'_>, at: usize) -> bool {
    let header = headers.get(at);
    let Some((module, last)) = header.name.rsplit_once('.') else { return false };
    BESIDE_CODES.contains(&last)
        && (headers.place(&format!("{module}.weight")).is_some() || last.starts_with("input"))
}

/// Whether a tensor is a calibrated scale of the cache: of keys, values or queries of an attention.
pub(crate) fn is_cache_scale(name: &str, dtype: Dtype, shape: &[u64]) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    matches!(last, "k_scale" | "v_scale" | "q_scale" | "prob_output_scale" | "kv_scale")
        && name.contains("attn")
        && Float::of(dtype).is_some()
        && element_count(shape) == Some(1)
}

/// How many weights each coding has, by its name.
pub(crate) fn counted_by_name<'a>(
    weights: impl Iterator<Item = &'a CodedWeight>,
) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    weights.for_each(|weight| *counts.entry(weight.coding.name()).or_default() += 1);
    counts
}

/// The name of a weight; `None` where it would be none.
fn weight_name(name: String, of: &Header<'_>) -> Result<TensorName, CodesError> {
    TensorName::new(name).ok_or_else(|| CodesError::Unknown { tensor: of.name.to_owned(), dtype: of.dtype })
}

/// The module of a weight: its name without `.weight`.
fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A stored tensor of a test: name, type, shape.
    type Told<'a> = (&'a str, Dtype, &'a [u64]);

    fn recognized(told: &[Told<'_>], config: &serde_json::Value) -> Result<Recognized, CodesError> {
        let settings = Settings::of(config, &[]);
        let list = told.iter().map(|(name, dtype, shape)| Header { name, dtype: *dtype, shape });
        recognize(&Headers::new(list.collect(), &settings, &|_| None))
    }

    fn of_groups(weights: serde_json::Value) -> serde_json::Value {
        json!({"quantization_config": {"config_groups": {"group_0": {"weights": weights}}}})
    }

    use Dtype::{BF16, F8_E4M3, F8_E8M0, F16, F32, I8, I32, I64, U8, U32};

    /// Names and types as the programs write them.
    #[test]
    fn weights_are_known_by_their_types_and_what_is_beside_them() {
        for (coding, tile, told) in [
            ("FP8", (128, 128), vec![("q.weight", F8_E4M3, [300, 200]), ("q.weight_scale_inv", F32, [3, 2])]),
            ("FP8", (64, 64), vec![("q.weight", F8_E4M3, [300, 200]), ("q.scale", F8_E8M0, [5, 4])]),
            ("FP8", (1, 32), vec![("q.weight", F8_E4M3, [300, 96]), ("q.weight_scale", U8, [300, 3])]),
            ("FP8", (1, 200), vec![("q.weight", F8_E4M3, [300, 200]), ("q.weight_scale", BF16, [300, 1])]),
            ("FP8", (300, 200), vec![("q.weight", F8_E4M3, [300, 200]), ("q.weight_scale", F32, [1, 1])]),
            ("int8", (1, 200), vec![("q.weight", I8, [300, 200]), ("q.weight_scale", BF16, [300, 1])]),
            ("8-bit bitsandbytes", (1, 200), vec![("q.weight", I8, [300, 200]), ("q.SCB", F32, [300, 1])]),
            ("MXFP4", (1, 32), vec![("q.weight", I8, [300, 48]), ("q.scale", F8_E8M0, [300, 3])]),
            ("MXFP4", (1, 32), vec![("q.weight_packed", U8, [300, 48]), ("q.weight_scale", U8, [300, 3])]),
        ] {
            let told: Vec<Told<'_>> =
                told.iter().map(|(name, dtype, shape)| (*name, *dtype, &shape[..])).collect();
            let found = recognized(&told, &json!({})).unwrap();
            let [weight] = found.weights.as_slice() else { panic!("{told:?}: {found:?}") };
            assert_eq!((weight.coding.name(), weight.name.as_str()), (coding, "q.weight"), "{told:?}");
            assert_eq!((weight.grid.tile.rows, weight.grid.tile.columns), tile, "{told:?}");
        }
    }

    /// The settings say how many bits a code has; without them, and without the shape, nothing does.
    #[test]
    fn packed_codes_have_the_bits_that_the_settings_say() {
        let packed: [Told<'_>; 2] = [("q.weight_packed", I32, &[6, 24]), ("q.weight_scale", BF16, &[6, 3])];
        for (bits, len, columns) in [(4, 64, 192), (8, 32, 96)] {
            let config = of_groups(json!({"num_bits": bits, "group_size": len, "type": "int"}));
            let found = recognized(&packed, &config).unwrap();
            assert_eq!(found.weights[0].shape, [6, columns]);
            assert_eq!((found.weights[0].grid.bits, found.weights[0].grid.tile.columns), (bits, len));
        }
        let unknown = recognized(&packed, &json!({})).unwrap_err();
        assert!(matches!(unknown, CodesError::NoWidth { .. }), "{unknown}");
    }

    #[test]
    fn what_does_not_go_with_its_codes_is_named() {
        let of =
            |told: &[Told<'_>], config: &serde_json::Value| recognized(told, config).unwrap_err().to_string();
        let blocks = json!({"quantization_config": {"weight_block_size": [128, 128]}});
        let none = json!({});
        for (told, config, says) in [
            (vec![("q.weight", F8_E4M3, vec![300, 200])], &none, "no `q.weight_scale_inv` or"),
            (
                vec![("q.weight", F8_E4M3, vec![300, 200]), ("q.weight_scale_inv", F32, vec![3, 3])],
                &blocks,
                "`q.weight_scale_inv` has the shape [3, 3]",
            ),
            (
                vec![("q.weight", F8_E4M3, vec![300, 200]), ("q.weight_scale_inv", F32, vec![2, 3, 2])],
                &none,
                "has the shape [2, 3, 2]",
            ),
            (
                vec![("q.weight", F8_E4M3, vec![300, 200]), ("q.weight_scale", I64, vec![300, 1])],
                &none,
                "`q.weight_scale` is of type I64",
            ),
            (
                vec![("q.weight", I8, vec![4, 100]), ("q.weight_scale", F32, vec![4, 3])],
                &none,
                "100 columns, which do not divide into 3 equal groups",
            ),
            (
                vec![
                    ("q.weight", I8, vec![4, 100]),
                    ("q.weight_scale", F32, vec![4, 1]),
                    ("q.weight_zero_point", I8, vec![3, 1]),
                ],
                &none,
                "`q.weight_zero_point` has the shape [3, 1]",
            ),
            (
                vec![("q.weight", I8, vec![4, 100]), ("q.SCB", F32, vec![3])],
                &none,
                "`q.SCB` has the shape [3]",
            ),
            (
                vec![("e.proj_blocks", U8, vec![2, 4, 3, 16]), ("e.proj_scales", U8, vec![2, 4, 2])],
                &none,
                "`e.proj_scales` has the shape [2, 4, 2]",
            ),
            (
                vec![("e.proj_blocks", U8, vec![2, 4, 3, 8]), ("e.proj_scales", U8, vec![2, 4, 3])],
                &none,
                "`e.proj_blocks` has the shape [2, 4, 3, 8]",
            ),
            (vec![("q.weight_packed", I32, vec![4, 16])], &none, "no `q.weight_scale`"),
            (vec![("q.weight", U8, vec![4, 16])], &none, "`q.weight` holds U8"),
            (
                vec![
                    ("q.weight_packed", U8, vec![4, 16]),
                    ("q.weight_scale", U8, vec![4, 1]),
                    ("q.weight", BF16, vec![4, 32]),
                ],
                &none,
                "`q.weight` is there twice",
            ),
        ] {
            let told: Vec<Told<'_>> =
                told.iter().map(|(name, dtype, shape)| (*name, *dtype, &shape[..])).collect();
            let said = of(&told, config);
            assert!(said.contains(says), "{said}");
        }
        let packed = of_groups(json!({"num_bits": 4, "group_size": 32, "type": "int", "symmetric": false}));
        let told: [Told<'_>; 2] = [("q.weight_packed", I32, &[6, 12]), ("q.weight_scale", F16, &[6, 3])];
        assert!(of(&told, &packed).contains("no `q.weight_zero_point`"));
        let zeros: Told<'_> = ("q.weight_zero_point", I32, &[2, 3]);
        assert!(
            of(&[told[0], told[1], zeros], &packed).contains("`q.weight_zero_point` has the shape [2, 3]")
        );
    }

    #[test]
    fn codes_that_are_not_read_are_refused_by_name() {
        for (form, told) in [
            ("MLX", vec![("l.q.weight", U32), ("l.q.scales", BF16), ("l.q.biases", BF16)]),
            ("NVFP4", vec![("l.q.weight", U8), ("l.q.weight_scale", F8_E4M3), ("l.q.weight_scale_2", F32)]),
            (
                "NVFP4",
                vec![("q.weight_packed", U8), ("q.weight_scale", F8_E4M3), ("q.weight_global_scale", F32)],
            ),
            ("4-bit bitsandbytes", vec![("q.weight", U8), ("q.weight.quant_state.bitsandbytes__nf4", U8)]),
            ("GPTQ or AWQ", vec![("q.qweight", I32), ("q.qzeros", I32), ("q.scales", BF16)]),
            ("HQQ", vec![("q.W_q", U8), ("q.scale", BF16), ("q.zero", BF16)]),
        ] {
            let told: Vec<Told<'_>> = told.iter().map(|(name, dtype)| (*name, *dtype, &[8, 8][..])).collect();
            match recognized(&told, &json!({})) {
                Err(CodesError::Unread { form: found, .. }) => assert_eq!(found, form),
                other => panic!("{form}: {other:?}"),
            }
        }
    }

    /// Floats, tables of integers and masks are none, whatever a key says of them.
    #[test]
    fn plain_tensors_are_left_alone() {
        for key in [json!({}), json!({"quantization_config": {"quant_method": "fp8"}})] {
            let told: [Told<'_>; 4] = [
                ("q.weight", BF16, &[8, 8]),
                ("q.scale", BF16, &[8]),
                ("attn.bias", U8, &[1, 1, 8, 8]),
                ("embeddings.position_ids", I64, &[1, 8]),
            ];
            let found = recognized(&told, &key).unwrap();
            assert!(found.weights.is_empty() && found.left.is_empty(), "{found:?}");
        }
        let beside: [Told<'_>; 2] = [("q.weight", BF16, &[8, 8]), ("q.weight_scale", BF16, &[8, 1])];
        assert!(recognized(&beside, &json!({})).unwrap().left.is_empty());
        let stale = json!({"quantization_config": {"quant_method": "fp8"}});
        assert_eq!(recognized(&beside, &stale).unwrap().left, [1]);
    }

    /// Bytes of the parts of one weight.
    struct InMemory(Vec<(&'static str, u64, Vec<u8>)>);

    impl Parts for InMemory {
        fn read(&self, part: usize, first: u64, buf: &mut [u8]) -> Result<()> {
            let (_, width, bytes) = &self.0[part];
            let start = (first * width) as usize;
            buf.copy_from_slice(&bytes[start..start + buf.len()]);
            Ok(())
        }

        fn name(&self, part: usize) -> &str {
            self.0[part].0
        }
    }

    /// Any part of a weight is what the same part of the whole is, wherever it begins and ends.
    #[test]
    fn every_range_decodes_as_in_the_whole() {
        let floats =
            |count: u64| (0..count).flat_map(|at| (0.5 + at as f32).to_le_bytes()).collect::<Vec<u8>>();
        let bytes = |count: u64| (0..count).map(|at| (at * 37 % 251) as u8).collect::<Vec<u8>>();
        let groups = of_groups(json!({"num_bits": 4, "group_size": 12, "type": "int", "symmetric": false}));
        let cases = [
            (
                vec![("q.weight", F8_E4M3, vec![7, 10]), ("q.weight_scale_inv", F32, vec![4, 3])],
                json!({"quantization_config": {"weight_block_size": [2, 4]}}),
                InMemory(vec![("q.weight", 1, bytes(70)), ("q.weight_scale_inv", 4, floats(12))]),
            ),
            (
                vec![
                    ("q.weight_packed", I32, vec![9, 5]),
                    ("q.weight_scale", F32, vec![9, 3]),
                    ("q.weight_zero_point", I32, vec![2, 3]),
                ],
                groups,
                InMemory(vec![
                    ("q.weight_packed", 4, bytes(180)),
                    ("q.weight_scale", 4, floats(27)),
                    ("q.weight_zero_point", 4, bytes(24)),
                ]),
            ),
            (
                vec![("e.w", F8_E4M3, vec![2, 3, 4]), ("e.w_scale_inv", F32, vec![2, 1, 1])],
                json!({}),
                InMemory(vec![("e.w", 1, bytes(24)), ("e.w_scale_inv", 4, floats(2))]),
            ),
        ];
        for (told, config, parts) in cases {
            let told: Vec<Told<'_>> =
                told.iter().map(|(name, dtype, shape)| (*name, *dtype, &shape[..])).collect();
            let found = recognized(&told, &config).unwrap();
            let weight = &found.weights[0];
            let count = element_count(&weight.shape).unwrap() as usize;
            let mut whole = vec![0.0; count];
            weight.decode(&parts, Isa::detect(), 0, &mut whole).unwrap();
            for first in 0..count {
                for end in first + 1..=count {
                    let mut part = vec![0.0; end - first];
                    weight.decode(&parts, Isa::detect(), first as u64, &mut part).unwrap();
                    let bits = |values: &[f32]| values.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&part), bits(&whole[first..end]), "{told:?} {first}..{end}");
                }
            }
        }
    }

    #[test]
    fn a_scale_that_is_not_finite_is_an_error_that_names_it() {
        for bad in [f32::NAN, f32::INFINITY] {
            let told: [Told<'_>; 2] = [("q.weight", F8_E4M3, &[4, 4]), ("q.weight_scale", F32, &[4, 1])];
            let scales = [1.0, 1.0, bad, 1.0].iter().flat_map(|scale: &f32| scale.to_le_bytes()).collect();
            let parts = InMemory(vec![("q.weight", 1, vec![0; 16]), ("q.weight_scale", 4, scales)]);
            let found = recognized(&told, &json!({})).unwrap();
            let decode = |first: u64| found.weights[0].decode(&parts, Isa::detect(), first, &mut [0.0; 4]);
            assert!(decode(4).is_ok());
            let error = decode(8).unwrap_err().to_string();
            assert_eq!(error, format!("scale 2 of `q.weight_scale` is {bad}"));
        }
    }
}
