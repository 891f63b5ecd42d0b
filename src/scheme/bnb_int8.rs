//! `bnb-int8`: the rows of LLM.int8 as bitsandbytes serializes them, with `SCB` and `weight_format`.
//!
//! Carries out formats/schemes.md, "Arithmetic".

use serde_json::{Value, json};

use super::{
    Codec, Counts, Entry, Layout, OnOverflow, Overflow, Package, Part, PartKind, Run, Scale, Tile, Unfit,
};
use crate::kernels::Isa;
use crate::tensor::{Dtype, Float};

pub(super) static BNB_INT8: Entry = Entry {
    name: "bnb-int8",
    suffix: "int8",
    alias: None,
    summary: "int8 as bitsandbytes has it: one scale a row, float activations",
    // MGM's classes are loaded in half precision, and bitsandbytes computes in it.
    rest_of_family: Some(Float::F16),
    rest: None,
    codec: Some(&BnbInt8),
};

/// Rows of codes with their largest magnitude.
#[derive(Debug)]
struct BnbInt8;

impl Codec for BnbInt8 {
    fn layout(&self) -> Layout {
        Layout::Bnb
    }

    fn arithmetic(&self) -> &'static str {
        "int8-row-absmax"
    }

    fn unfit(&self, float: Option<Float>, _columns: u64) -> Option<Unfit> {
        float.is_none().then_some(Unfit::Dtype)
    }

    fn tile(&self, columns: u64) -> Tile {
        Tile::row(columns)
    }

    fn parts(&self, _float: Float, rows: u64, columns: u64) -> Vec<Part> {
        vec![
            Part::new("weight", PartKind::Codes, Dtype::I8, vec![rows, columns]),
            Part::new("SCB", PartKind::Scales, Dtype::F32, vec![rows]),
            Part { constant: vec![0], ..Part::new("weight_format", PartKind::Format, Dtype::U8, vec![]) },
        ]
    }

    fn scale_type(&self, _float: Float) -> Float {
        Float::F32
    }

    fn scale(&self, _float: Float, magnitude: f32) -> Scale {
        // Rounding keeps order, so the rounded magnitude is the magnitude of the rounded row.
        let largest = Float::F16.round(magnitude).min(Float::F16.largest());
        Scale { magnitude, step: self.step(largest), stored: largest }
    }

    fn step(&self, stored: f32) -> f32 {
        stored / 127.0
    }

    fn encode(
        &self,
        run: &Run<'_>,
        codes: &mut [u8],
        decoded: Option<&mut [f32]>,
    ) -> Result<Counts, Overflow> {
        let largest = run.scale.stored;
        let factor = if largest > 0.0 { (1.0 / largest) * 127.0 } else { 0.0 };
        let mut counts = Counts::default();
        if run.scale.magnitude >= Float::F16.overflow() {
            counts.overflowed = overflow(run)?;
            // The same as clamping what they round to: from 65504 to 65520 all round to 65504.
            let within = |value: &f32| value.clamp(-Float::F16.largest(), Float::F16.largest());
            let row: Vec<f32> = run.row.iter().map(within).collect();
            run.isa.quantize_f16(&row, factor, codes);
        } else {
            run.isa.quantize_f16(run.row, factor, codes);
        }
        if let Some(decoded) = decoded {
            run.isa.decode(codes, run.scale.step, decoded);
            counts.zeros = run.isa.zero_codes(codes, 0xff);
        }
        Ok(counts)
    }

    fn decode(&self, isa: Isa, codes: &[u8], step: f32, row: &mut [f32]) {
        isa.decode(codes, step, row);
    }

    fn overflow(&self, _float: Float) -> f32 {
        // bitsandbytes multiplies in half precision with magnitudes that it holds: no product is infinite.
        f32::INFINITY
    }

    fn int8_codes(&self, _codes: &mut [u8]) -> bool {
        true
    }

    fn codes_word(&self) -> &'static str {
        "int8"
    }

    /// As bitsandbytes' integration in transformers writes it.
    fn quantization_config(&self, skip: &[String]) -> Value {
        json!({
            "quant_method": "bitsandbytes",
            "load_in_8bit": true,
            "load_in_4bit": false,
            "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": skip,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": false,
            "bnb_4bit_compute_dtype": "float32",
        })
    }

    fn package(&self) -> Package {
        Package {
            name: "bitsandbytes",
            pin: "0.50.2",
            range: ">=0.50.2",
            reason: "reads serialized int8 (weight, SCB)",
        }
    }
}

/// Counts the values that half precision does not hold, or names the first. A scale cannot be infinite: it is an error
/// where infinities were asked for, too.
fn overflow(run: &Run<'_>) -> Result<u64, Overflow> {
    let mut count = 0;
    for (index, value) in run.row.iter().enumerate().filter(|(_, value)| value.abs() >= Float::F16.overflow())
    {
        if run.on_overflow != OnOverflow::Clamp {
            return Err(Overflow { index, value: *value, into: Float::F16.word().to_owned() });
        }
        count += 1;
    }
    Ok(count)
}
