//! `FP8_BLOCK`: compressed-tensors' `float-quantized`, 8-bit floats with one scale for 128 rows by 128 columns, activations
//! quantized per 128 values of a token when the model runs.
//!
//! Carries out formats/schemes.md, "Arithmetic".

use serde_json::{Value, json};

use super::{
    Codec, Counts, Entry, Layout, Overflow, Package, Part, PartKind, Run, Scale, Tile, Unfit, VllmGpus,
    compressed_tensors, fp8_channel,
};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

pub(super) static FP8_BLOCK: Entry = Entry {
    name: "FP8_BLOCK",
    suffix: "fp8-block",
    alias: None,
    summary: "FP8 (E4M3) with one scale for 128 by 128 weights, activations quantized per 128 values",
    rest_of_family: None,
    rest: None,
    codec: Some(&Fp8Block),
};

/// Rows and columns of a block. The last rows of a matrix may be fewer; columns are whole blocks, as llm-compressor cannot
/// write others.
const BLOCK: u64 = 128;

/// Blocks of E4M3 with a step in the weight's type.
#[derive(Debug)]
struct Fp8Block;

impl Codec for Fp8Block {
    fn layout(&self) -> Layout {
        Layout::CompressedTensors
    }

    fn arithmetic(&self) -> &'static str {
        "fp8-block128-absmax"
    }

    fn unfit(&self, float: Option<Float>, columns: u64) -> Option<Unfit> {
        let by_width = || (!columns.is_multiple_of(BLOCK)).then_some(Unfit::Width(BLOCK));
        compressed_tensors::unfit(float).or_else(by_width)
    }

    fn tile(&self, _columns: u64) -> Tile {
        Tile { rows: BLOCK, columns: BLOCK }
    }

    fn parts(&self, float: Float, rows: u64, columns: u64) -> Vec<Part> {
        let blocks = vec![rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)];
        vec![
            Part::new("weight", PartKind::Codes, Dtype::F8_E4M3, vec![rows, columns]),
            Part::new("weight_scale", PartKind::Scales, float.dtype(), blocks),
        ]
    }

    fn scale(&self, float: Float, magnitude: f32) -> Scale {
        compressed_tensors::scale(float, magnitude, fp8_channel::LARGEST)
    }

    fn encode(
        &self,
        run: &Run<'_>,
        codes: &mut [u8],
        decoded: Option<&mut [f32]>,
    ) -> Result<Counts, Overflow> {
        fp8_channel::encode(run, codes, decoded)
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: f32, row: &mut [f32]) {
        isa.decode_e4m3(codes, step, row);
    }

    fn codes_word(&self) -> &'static str {
        "FP8"
    }

    fn quantization_config(&self, skip: &[String]) -> Value {
        let weights = json!({
            "num_bits": 8, "type": "float", "symmetric": true, "strategy": "block",
            "block_structure": [BLOCK, BLOCK], "group_size": null, "dynamic": false,
        });
        let group = json!({
            "num_bits": 8, "type": "float", "symmetric": true, "strategy": "group",
            "group_size": BLOCK, "dynamic": true,
        });
        compressed_tensors::config("FP8_BLOCK", "float-quantized", &weights, &group, skip)
    }

    fn package(&self) -> Package {
        compressed_tensors::package("reads the FP8 layout")
    }

    fn vllm_gpus(&self) -> Option<VllmGpus> {
        Some(fp8_channel::VLLM_GPUS)
    }
}
