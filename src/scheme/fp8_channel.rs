//! `FP8_DYNAMIC`: compressed-tensors' `float-quantized`, 8-bit floats with one scale a row, activations quantized per token
//! when the model runs.
//!
//! Carries out formats/schemes.md, "Arithmetic".

use serde_json::{Value, json};

use super::{
    Codec, Counts, Entry, Layout, Overflow, Package, Part, PartKind, Run, Scale, Tile, Unfit, VllmGpus,
    compressed_tensors,
};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

pub(super) static FP8_DYNAMIC: Entry = Entry {
    name: "FP8_DYNAMIC",
    suffix: "fp8",
    alias: None,
    summary: "FP8 (E4M3) with one scale a row, activations quantized per token",
    rest_of_family: None,
    rest: None,
    codec: Some(&Fp8Channel),
};

/// The largest E4M3.
pub(super) const LARGEST: f32 = 448.0;

/// Source: vLLM's documentation, "FP8 W8A8".
pub(super) const VLLM_GPUS: VllmGpus = VllmGpus {
    first: (7, 5),
    last: None,
    card: "vLLM multiplies in FP8 on GPUs of compute capability 8.9 and later (Ada, Hopper, Blackwell); from 7.5 on (Turing, \
           Ampere) it decodes the weights and multiplies in 16 bits.",
};

/// Rows of E4M3 with a step in the weight's type.
#[derive(Debug)]
struct Fp8Channel;

impl Codec for Fp8Channel {
    fn layout(&self) -> Layout {
        Layout::CompressedTensors
    }

    fn arithmetic(&self) -> &'static str {
        "fp8-channel-absmax"
    }

    fn unfit(&self, float: Option<Float>, _columns: u64) -> Option<Unfit> {
        compressed_tensors::unfit(float)
    }

    fn tile(&self, columns: u64) -> Tile {
        Tile::row(columns)
    }

    fn parts(&self, float: Float, rows: u64, columns: u64) -> Vec<Part> {
        vec![
            Part::new("weight", PartKind::Codes, Dtype::F8_E4M3, vec![rows, columns]),
            Part::new("weight_scale", PartKind::Scales, float.dtype(), vec![rows, 1]),
        ]
    }

    fn scale(&self, float: Float, magnitude: f32) -> Scale {
        compressed_tensors::scale(float, magnitude, LARGEST)
    }

    fn encode(
        &self,
        run: &Run<'_>,
        codes: &mut [u8],
        decoded: Option<&mut [f32]>,
    ) -> Result<Counts, Overflow> {
        encode(run, codes, decoded)
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: f32, row: &mut [f32]) {
        isa.decode_e4m3(codes, step, row);
    }

    fn codes_word(&self) -> &'static str {
        "FP8"
    }

    fn quantization_config(&self, skip: &[String]) -> Value {
        let weights = json!({
            "num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel",
            "group_size": null, "dynamic": false,
        });
        let token = json!({
            "num_bits": 8, "type": "float", "symmetric": true, "strategy": "token",
            "group_size": null, "dynamic": true,
        });
        compressed_tensors::config("FP8_DYNAMIC", "float-quantized", &weights, &token, skip)
    }

    fn package(&self) -> Package {
        compressed_tensors::package("reads the FP8 layout")
    }

    fn vllm_gpus(&self) -> Option<VllmGpus> {
        Some(VLLM_GPUS)
    }
}

/// Encodes a run as E4M3 with the step of its tile.
pub(super) fn encode(
    run: &Run<'_>,
    codes: &mut [u8],
    decoded: Option<&mut [f32]>,
) -> Result<Counts, Overflow> {
    let step = run.scale.step;
    let mut counts =
        Counts { clipped: run.isa.divide_e4m3(run.float, run.row, step, codes), ..Counts::default() };
    // The next smaller number, 416, has room for any rounding of the step.
    if step * LARGEST >= run.float.overflow() {
        let smaller = |code: u8| (code & 0x7f == 0x7e).then(|| code - 1);
        counts.overflowed = compressed_tensors::largest_codes(run, codes, "FP8 codes", smaller)?;
    }
    if let Some(decoded) = decoded {
        run.isa.decode_e4m3(codes, step, decoded);
        counts.zeros = run.isa.zero_codes(codes, 0x7f);
    }
    Ok(counts)
}
