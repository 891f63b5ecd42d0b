//! Schemes: how the weights of a bundle are stored, one file a scheme.
//!
//! A scheme that quantizes has a [`Codec`], which says all that is to be known of it: what it accepts, what is stored under
//! which names, how weights become codes and codes values, what its clients read. Outside this folder nothing asks which
//! scheme it is. Carries out formats/schemes.md.

mod bnb_int8;
mod cast;
mod compressed_tensors;
mod fp8_block;
mod fp8_channel;
mod w8a16;
mod w8a8;

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

pub(crate) use cast::arithmetic as cast_arithmetic;

use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

/// Every scheme, in the order of schemes.md.
static ALL: [&Entry; 7] = [
    &cast::BF16,
    &cast::FP16,
    &bnb_int8::BNB_INT8,
    &w8a8::W8A8,
    &w8a16::W8A16,
    &fp8_channel::FP8_DYNAMIC,
    &fp8_block::FP8_BLOCK,
];

/// How the linears of a bundle are stored.
#[derive(Clone, Copy)]
pub struct Scheme(&'static Entry);

/// What a scheme's file says of it.
struct Entry {
    /// Name in plans, manifests and schemes.md; of compressed-tensors' schemes, that of its preset.
    name: &'static str,
    /// The word that ends a bundle's default name.
    suffix: &'static str,
    /// Another name of the preset.
    alias: Option<&'static str>,
    /// One line for who chooses a scheme.
    summary: &'static str,
    /// The type of every other floating tensor in a bundle of MGM; `None` keeps each one's own.
    rest_of_family: Option<Float>,
    /// That in a generic bundle.
    rest: Option<Float>,
    /// How linears become codes; `None` where they are cast like everything else.
    codec: Option<&'static dyn Codec>,
}

impl Scheme {
    /// Every floating tensor as bfloat16.
    pub const BF16: Self = Self(&cast::BF16);
    /// Every floating tensor as IEEE half precision.
    pub const FP16: Self = Self(&cast::FP16);

    /// Every scheme, in the order of schemes.md.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(Self)
    }

    /// The scheme of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|scheme| scheme.name() == name)
    }

    /// The schemes that are presets of compressed-tensors, by its names.
    pub fn presets() -> impl Iterator<Item = Self> {
        Self::all().filter(|scheme| scheme.layout() == Some(Layout::CompressedTensors))
    }

    /// The preset of that name, in letters of either case, or of its other name.
    pub fn preset(word: &str) -> Option<Self> {
        let is_it = |name: &str| name.eq_ignore_ascii_case(word);
        Self::presets().find(|scheme| is_it(scheme.name()) || scheme.alias().is_some_and(is_it))
    }

    /// The scheme's name in plans, manifests and schemes.md.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The word that ends a bundle's default name.
    pub fn suffix(self) -> &'static str {
        self.0.suffix
    }

    /// Another name of the preset.
    pub fn alias(self) -> Option<&'static str> {
        self.0.alias
    }

    /// One line for who chooses a scheme.
    pub fn summary(self) -> &'static str {
        self.0.summary
    }

    /// The type that floating tensors are cast to where they are not quantized; `None` keeps each one's own.
    pub fn rest(self, is_family: bool) -> Option<Float> {
        if is_family { self.0.rest_of_family } else { self.0.rest }
    }

    /// How linears become codes and back; `None` for casts.
    pub fn codec(self) -> Option<&'static dyn Codec> {
        self.0.codec
    }

    /// The layout of the quantized schemes; `None` for casts.
    pub fn layout(self) -> Option<Layout> {
        self.codec().map(Codec::layout)
    }

    /// True if linears become codes.
    pub fn is_quantized(self) -> bool {
        self.codec().is_some()
    }
}

impl PartialEq for Scheme {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Scheme {}

impl Hash for Scheme {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(Self::name).collect();
            de::Error::custom(format!("unknown variant `{name}`, expected one of {}", names.join(", ")))
        })
    }
}

/// The names under which clients know a quantized layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Layout {
    /// bitsandbytes: MGM's stack and transformers.
    Bnb,
    /// compressed-tensors: transformers 5 and vLLM.
    CompressedTensors,
}

impl Layout {
    /// Its scheme of 8-bit integers.
    pub fn int8(self) -> Scheme {
        Scheme(match self {
            Layout::Bnb => &bnb_int8::BNB_INT8,
            Layout::CompressedTensors => &w8a8::W8A8,
        })
    }
}

/// How a scheme quantizes: the one place that knows its arithmetic, its tensors and its clients.
///
/// A weight is a matrix of `[rows, columns]`, cut into [tiles](Codec::tile) that have a scale each. A *run* is the part of
/// a row that lies in one tile; it is encoded and decoded at once.
pub trait Codec: fmt::Debug + Sync {
    /// The clients that it is written for.
    fn layout(&self) -> Layout;

    /// The arithmetic's name in schemes.md.
    fn arithmetic(&self) -> &'static str;

    /// Why a weight is not stored so; `None` where it can be. `float`: its type, if that is a floating one.
    fn unfit(&self, float: Option<Float>, columns: u64) -> Option<Unfit>;

    /// The rectangle whose elements share a scale, in a matrix of so many columns.
    ///
    /// Tiles lie side by side from the first row and column on. One that has several rows is computed as part of a band of
    /// whole rows. One that has one row may be of any width; where it is narrower than the row, its columns divide 65,536.
    fn tile(&self, columns: u64) -> Tile;

    /// Bits of a code.
    fn code_bits(&self) -> u64 {
        8
    }

    /// What is stored in place of `<module>.weight` of `[rows, columns]`, in this order.
    fn parts(&self, float: Float, rows: u64, columns: u64) -> Vec<Part>;

    /// The type of the stored scales: the weight's own, unless the codec says otherwise.
    fn scale_type(&self, float: Float) -> Float {
        float
    }

    /// The scale of a tile by its largest magnitude, which is finite.
    fn scale(&self, float: Float, magnitude: f32) -> Scale;

    /// What a code is multiplied by, from the scale as it is stored: that itself, unless the codec says otherwise.
    fn step(&self, stored: f32) -> f32 {
        stored
    }

    /// Encodes a run as it is stored. `codes`: `row.len()` codes. With `decoded`, of the same length, also the values that
    /// clients decode, and the count of codes that are 0.
    ///
    /// # Errors
    /// The first value that does not fit, where the policy is to stop.
    fn encode(
        &self,
        run: &Run<'_>,
        codes: &mut [u8],
        decoded: Option<&mut [f32]>,
    ) -> Result<Counts, Overflow>;

    /// Decodes a run as it is stored, in f32.
    fn decode(&self, isa: Isa, codes: &[u8], step: f32, row: &mut [f32]);

    /// Decoded magnitudes from here on are infinite to clients, which compute in the weight's type.
    fn overflow(&self, float: Float) -> f32 {
        float.overflow()
    }

    /// Makes stored codes signed bytes in place, where each is one: false where they are something else.
    fn int8_codes(&self, _codes: &mut [u8]) -> bool {
        false
    }

    /// What the codes are, in a sentence: `int8`.
    fn codes_word(&self) -> &'static str;

    /// True where several codes are packed into a word of 32 bits.
    fn is_packed(&self) -> bool {
        false
    }

    /// `quantization_config` of config.json. `skip`: patterns of the modules that stay float.
    fn quantization_config(&self, skip: &[String]) -> Value;

    /// The package that reads it in transformers.
    fn package(&self) -> Package;

    /// The GPUs that vLLM has kernels for, where these are not all that it serves.
    fn vllm_gpus(&self) -> Option<VllmGpus> {
        None
    }
}

/// A rectangle of a matrix, in elements. Those at the right and lower edge may be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows.
    pub rows: u64,
    /// Columns, at least 1.
    pub columns: u64,
}

impl Tile {
    /// A whole row.
    fn row(columns: u64) -> Self {
        Self { rows: 1, columns: columns.max(1) }
    }
}

/// Why a weight cannot be stored in a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// The element type is not one that is quantized.
    Dtype,
    /// The row does not divide into whole groups of so many columns.
    Width(u64),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Dtype => f.write_str("not a float type that is quantized"),
            Unfit::Width(group) => write!(f, "width is no multiple of {group}"),
        }
    }
}

/// One tensor stored for a quantized weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Takes the place of `weight` in the tensor's name.
    pub suffix: &'static str,
    /// What it holds.
    pub kind: PartKind,
    /// Element type.
    pub dtype: Dtype,
    /// Shape in elements.
    pub shape: Vec<u64>,
    /// Its bytes, where they follow from the shape alone.
    pub constant: Vec<u8>,
}

impl Part {
    fn new(suffix: &'static str, kind: PartKind, dtype: Dtype, shape: Vec<u64>) -> Self {
        Self { suffix, kind, dtype, shape, constant: Vec::new() }
    }
}

/// What a stored tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The values themselves, copied or cast.
    Values,
    /// Codes of a quantized weight.
    Codes,
    /// The scales of a quantized weight.
    Scales,
    /// bitsandbytes' row-format marker, the byte 0.
    Format,
    /// compressed-tensors' original shape of a packed weight.
    Shape,
}

/// The scale of a tile.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The largest magnitude of the tile.
    pub magnitude: f32,
    /// value = code * step.
    pub step: f32,
    /// What the bundle stores, a value of the scales' type.
    pub stored: f32,
}

/// A run of weights, to be encoded.
#[derive(Debug)]
pub struct Run<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The weights' type in the checkpoint.
    pub float: Float,
    /// What is done with values that do not fit.
    pub on_overflow: OnOverflow,
    /// The weights, widened. All are finite.
    pub row: &'a [f32],
    /// That of the tile.
    pub scale: Scale,
}

/// What was counted while a run was encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Quotients beyond the codes' range.
    pub clipped: u64,
    /// Values that do not fit.
    pub overflowed: u64,
    /// Codes that are 0, if they were asked for.
    pub zeros: u64,
}

/// A value that does not fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Overflow {
    /// Its place in the run.
    pub index: usize,
    /// The value.
    pub value: f32,
    /// What it does not fit into, as errors name it.
    pub into: String,
}

/// What happens to a finite value that the output type cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum OnOverflow {
    /// Stop and name the tensor
    #[default]
    Error,
    /// Take the largest finite value
    Clamp,
    /// Take infinity (not for quantized tensors)
    Inf,
}

/// A package that a bundle needs beside those of every bundle.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its name on PyPI.
    pub name: &'static str,
    /// The version that was tested.
    pub pin: &'static str,
    /// The versions that work.
    pub range: &'static str,
    /// What it is for.
    pub reason: &'static str,
}

/// The compute capabilities of the GPUs that vLLM has kernels of a scheme for.
#[derive(Clone, Copy, Debug)]
pub struct VllmGpus {
    /// The first, as major and minor number.
    pub first: (u32, u32),
    /// The last; `None` where all later ones serve.
    pub last: Option<(u32, u32)>,
    /// What the card says of them.
    pub card: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_its_name_in_json() {
        for scheme in Scheme::all() {
            let json = serde_json::to_string(&scheme).unwrap();
            assert_eq!(json, format!("\"{}\"", scheme.name()));
            assert_eq!(serde_json::from_str::<Scheme>(&json).unwrap(), scheme);
        }
        let unknown = serde_json::from_str::<Scheme>("\"W2A2\"").unwrap_err().to_string();
        assert!(unknown.contains("unknown variant `W2A2`") && unknown.contains("W8A8"), "{unknown}");
    }

    /// Every tile has one scale, every element its code, and what follows from the shape alone fills its tensor.
    #[test]
    fn the_parts_of_a_weight_have_room_for_its_tiles_and_codes() {
        for codec in Scheme::all().filter_map(Scheme::codec) {
            for (rows, columns) in [(1, 128), (127, 256), (128, 384), (300, 1024), (3, 1 << 17)] {
                let tile = codec.tile(columns);
                for part in codec.parts(Float::BF16, rows, columns) {
                    let elements: u64 = part.shape.iter().product();
                    let bits = elements * part.dtype.bitsize() as u64;
                    let expected = match part.kind {
                        PartKind::Codes => rows * columns * codec.code_bits(),
                        PartKind::Scales => {
                            let tiles = rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns);
                            tiles * codec.scale_type(Float::BF16).byte_len() as u64 * 8
                        }
                        PartKind::Values | PartKind::Format | PartKind::Shape => {
                            part.constant.len() as u64 * 8
                        }
                    };
                    assert_eq!(bits, expected, "{codec:?} {} of [{rows}, {columns}]", part.suffix);
                }
            }
        }
    }

    /// What is stored decodes to the values that encoding said it would, for every codec and type that it takes.
    #[test]
    fn decoding_gives_the_values_that_encoding_measured() {
        let row: Vec<f32> = (0..256).map(|i| (f32::from(i as i16) - 100.5) * 0.03125).collect();
        for codec in Scheme::all().filter_map(Scheme::codec) {
            for float in [Float::F64, Float::F32, Float::F16, Float::BF16] {
                if codec.unfit(Some(float), 256).is_some() {
                    continue;
                }
                let tile = codec.tile(256);
                for isa in Isa::all() {
                    for row in row.chunks(tile.columns as usize) {
                        let magnitude = f32::from_bits(isa.magnitude(row));
                        let scale = codec.scale(float, magnitude);
                        let run = Run { isa, float, on_overflow: OnOverflow::Error, row, scale };
                        let mut codes = vec![0; row.len() * codec.code_bits() as usize / 8];
                        let mut measured = vec![0.0; row.len()];
                        let counts = codec.encode(&run, &mut codes, Some(&mut measured)).unwrap();
                        let mut decoded = vec![1.0; row.len()];
                        codec.decode(isa, &codes, codec.step(scale.stored), &mut decoded);
                        assert_eq!(decoded, measured, "{codec:?} {float:?} {isa:?}");
                        let zeros = decoded.iter().filter(|value| **value == 0.0).count() as u64;
                        assert_eq!(
                            (counts.zeros, counts.overflowed),
                            (zeros, 0),
                            "{codec:?} {float:?} {isa:?}"
                        );
                        // The codes are of some use: no value is off by more than a 16th of the largest.
                        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= magnitude / 16.0;
                        assert!(row.iter().zip(&decoded).all(near), "{codec:?} {float:?}");
                    }
                }
            }
        }
    }
}
