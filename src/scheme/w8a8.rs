//! `W8A8`: compressed-tensors' `int-quantized`, one scale a row, activations quantized per token when the model runs.
//!
//! Carries out formats/schemes.md, "Arithmetic".

use serde_json::{Value, json};

use super::{
    Codec, Counts, Entry, Layout, Overflow, Package, Part, PartKind, Run, Scale, Tile, Unfit, VllmGpus,
    compressed_tensors,
};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

pub(super) static W8A8: Entry = Entry {
    name: "W8A8",
    suffix: "int8",
    alias: Some("INT8"),
    summary: "One scale a row, activations quantized per token",
    rest_of_family: None,
    rest: None,
    codec: Some(&W8A8Codec),
};

/// Half of the codes' range, -128 to 127.
pub(super) const HALF_RANGE: f32 = 127.5;

/// Rows of codes with a step in the weight's type.
#[derive(Debug)]
struct W8A8Codec;

impl Codec for W8A8Codec {
    fn layout(&self) -> Layout {
        Layout::CompressedTensors
    }

    fn arithmetic(&self) -> &'static str {
        "int8-channel-absmax"
    }

    fn unfit(&self, float: Option<Float>, _columns: u64) -> Option<Unfit> {
        compressed_tensors::unfit(float)
    }

    fn tile(&self, columns: u64) -> Tile {
        Tile::row(columns)
    }

    fn parts(&self, float: Float, rows: u64, columns: u64) -> Vec<Part> {
        vec![
            Part::new("weight", PartKind::Codes, Dtype::I8, vec![rows, columns]),
            Part::new("weight_scale", PartKind::Scales, float.dtype(), vec![rows, 1]),
        ]
    }

    fn scale(&self, float: Float, magnitude: f32) -> Scale {
        compressed_tensors::scale(float, magnitude, HALF_RANGE)
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
        isa.decode(codes, step, row);
    }

    fn int8_codes(&self, _codes: &mut [u8]) -> bool {
        true
    }

    fn codes_word(&self) -> &'static str {
        "int8"
    }

    fn quantization_config(&self, skip: &[String]) -> Value {
        let weights = json!({
            "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel",
            "group_size": null, "dynamic": false,
        });
        let token = json!({
            "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token",
            "group_size": null, "dynamic": true,
        });
        compressed_tensors::config("W8A8", "int-quantized", &weights, &token, skip)
    }

    fn package(&self) -> Package {
        compressed_tensors::package("reads the int8 layout")
    }

    /// Source: vLLM's documentation, "INT8 W8A8", and its issues 25935, 54311 and 54316.
    fn vllm_gpus(&self) -> Option<VllmGpus> {
        Some(VllmGpus {
            first: (7, 5),
            last: Some((9, 0)),
            card: "vLLM has kernels for W8A8 on GPUs of compute capability 7.5 to 9.0 (Turing to Hopper), and none from \
                   10.0 on (Blackwell), where bf16 and fp16 serve.",
        })
    }
}

/// Encodes a run as signed bytes. -128 alone can decode to infinity: 127 steps are below the magnitude.
pub(super) fn encode(
    run: &Run<'_>,
    codes: &mut [u8],
    decoded: Option<&mut [f32]>,
) -> Result<Counts, Overflow> {
    let (step, overflow) = (run.scale.step, run.float.overflow());
    let mut counts = Counts { clipped: run.isa.divide(run.float, run.row, step, codes), ..Counts::default() };
    if step * 128.0 >= overflow {
        let smaller = |code| (code == 0x80).then_some(0x81);
        counts.overflowed = compressed_tensors::largest_codes(run, codes, "int8 codes", smaller)?;
    }
    if let Some(decoded) = decoded {
        run.isa.decode(codes, step, decoded);
        counts.zeros = run.isa.zero_codes(codes, 0xff);
    }
    Ok(counts)
}
