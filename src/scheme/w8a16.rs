//! `W8A16`: compressed-tensors' `pack-quantized`, one scale for 128 columns of a row, float activations.
//!
//! Carries out formats/schemes.md, "Arithmetic".

use serde_json::{Value, json};

use super::{
    Codec, Counts, Entry, Layout, Overflow, Package, Part, PartKind, Run, Scale, Tile, Unfit,
    compressed_tensors, w8a8,
};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

pub(super) static W8A16: Entry = Entry {
    name: "W8A16",
    suffix: "w8a16",
    alias: None,
    summary: "One scale for 128 columns, packed, float activations",
    rest_of_family: None,
    rest: None,
    codec: Some(&W8A16Codec),
};

/// Columns that share a scale.
const GROUP_LEN: u64 = 128;
/// Codes in a word of 32 bits.
const WORD_LEN: u64 = 4;

const _: () = assert!(GROUP_LEN.is_multiple_of(WORD_LEN));

/// Groups of codes with a step in the weight's type. In a file the words of four codes are the codes in order, each plus
/// 128: its highest bit flipped.
#[derive(Debug)]
struct W8A16Codec;

impl Codec for W8A16Codec {
    fn layout(&self) -> Layout {
        Layout::CompressedTensors
    }

    fn arithmetic(&self) -> &'static str {
        "int8-group128-absmax"
    }

    fn unfit(&self, float: Option<Float>, columns: u64) -> Option<Unfit> {
        let by_width = || (!columns.is_multiple_of(GROUP_LEN)).then_some(Unfit::Width(GROUP_LEN));
        compressed_tensors::unfit(float).or_else(by_width)
    }

    fn tile(&self, _columns: u64) -> Tile {
        Tile { rows: 1, columns: GROUP_LEN }
    }

    fn parts(&self, float: Float, rows: u64, columns: u64) -> Vec<Part> {
        let shape = [rows, columns].into_iter().flat_map(u64::to_le_bytes).collect();
        vec![
            Part::new("weight_packed", PartKind::Codes, Dtype::I32, vec![rows, columns.div_ceil(WORD_LEN)]),
            Part::new(
                "weight_scale",
                PartKind::Scales,
                float.dtype(),
                vec![rows, columns.div_ceil(GROUP_LEN)],
            ),
            Part { constant: shape, ..Part::new("weight_shape", PartKind::Shape, Dtype::I64, vec![2]) },
        ]
    }

    fn scale(&self, float: Float, magnitude: f32) -> Scale {
        compressed_tensors::scale(float, magnitude, w8a8::HALF_RANGE)
    }

    fn encode(
        &self,
        run: &Run<'_>,
        codes: &mut [u8],
        decoded: Option<&mut [f32]>,
    ) -> Result<Counts, Overflow> {
        let counts = w8a8::encode(run, codes, decoded)?;
        flip(codes);
        Ok(counts)
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: f32, row: &mut [f32]) {
        let mut plain = [0; GROUP_LEN as usize];
        for (codes, row) in codes.chunks(plain.len()).zip(row.chunks_mut(plain.len())) {
            let plain = &mut plain[..codes.len()];
            plain.copy_from_slice(codes);
            flip(plain);
            isa.decode(plain, step, row);
        }
    }

    fn int8_codes(&self, codes: &mut [u8]) -> bool {
        flip(codes);
        true
    }

    fn codes_word(&self) -> &'static str {
        "int8"
    }

    fn is_packed(&self) -> bool {
        true
    }

    fn quantization_config(&self, skip: &[String]) -> Value {
        let weights = json!({
            "num_bits": 8, "type": "int", "symmetric": true, "strategy": "group",
            "group_size": GROUP_LEN, "dynamic": false,
        });
        compressed_tensors::config("W8A16", "pack-quantized", &weights, &Value::Null, skip)
    }

    fn package(&self) -> Package {
        compressed_tensors::package("reads the int8 layout")
    }
}

/// Adds 128 to signed codes, or takes it away.
fn flip(codes: &mut [u8]) {
    codes.iter_mut().for_each(|code| *code ^= 0x80);
}
