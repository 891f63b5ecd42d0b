"""Writes the test vectors of the conversions: inputs, and what torch, bitsandbytes and llm-compressor make of them.

Pinned in requirements.txt: torch 2.13.0, bitsandbytes 0.50.2, compressed-tensors 0.20.0, llmcompressor 0.14.0.1,
transformers 5.23.0, numpy 2.4.6, safetensors 0.8.0. No network, no model. From the folder of this file:

    python3.11 -m venv venv && venv/bin/pip install --no-deps -r requirements.txt
    venv/bin/python make_vectors.py vectors

Two runs give the same bytes, with torch's AVX2 code and with its plain code (ATEN_CPU_CAPABILITY=default); the sha256 of every
file is printed. A case is `<dtype>.<name>`.

    casts.safetensors      <src>.input -> <src>.to_<dst>. No NaN in them: torch's NaN bits depend on the CPU and on the
                           tensor's length. <src>.nan_input holds NaNs; the rule for them is only "stays NaN".
    bnb_int8.safetensors   <case>.weight -> <case>.codes int8, <case>.scb f32: bitsandbytes' Int8Params
    ct_w8a8.safetensors    <case>.weight -> <case>.out.weight int8, <case>.out.weight_scale: model_free_ptq, scheme W8A8
    ct_w8a16.safetensors   <case>.weight -> <case>.out.weight_packed, .out.weight_scale, .out.weight_shape: scheme W8A16
    ct_fp8_dynamic.safetensors  <case>.weight -> <case>.out.weight float8_e4m3fn, .out.weight_scale: scheme FP8_DYNAMIC
    ct_fp8_block.safetensors    the same with scheme FP8_BLOCK, and matrices of several blocks
    decoded.safetensors    weights as quantizers store them, under the names of a checkpoint, and expected.<weight>: what
                           compressed-tensors, transformers and bitsandbytes decode them to, as bf16
"""

import hashlib
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLM_COMPRESSOR_LOG_DISABLED"] = "true"

import bitsandbytes
import numpy as np
import torch
from compressed_tensors.compressors import NaiveQuantizationCompressor, PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import model_free_ptq
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

DTYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WIDTH = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16}
MANTISSA = {"f64": 52, "f32": 23, "f16": 10, "bf16": 7}
WEIGHTS = ["bf16", "f16", "f32"]
CASTS = {"f64": ["f32", "f16", "bf16"], "f32": ["f16", "bf16"], "f16": ["bf16", "f32"], "bf16": ["f16", "f32"]}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "casts": casts(),
        "bnb_int8": bnb_int8(),
        "ct_w8a8": compressed_tensors("W8A8"),
        "ct_w8a16": compressed_tensors("W8A16"),
        "ct_fp8_dynamic": compressed_tensors("FP8_DYNAMIC"),
        "ct_fp8_block": compressed_tensors("FP8_BLOCK"),
        "decoded": decoded(),
    }
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.name)


# --- casts


def casts():
    out = {}
    for src, targets in CASTS.items():
        values, nans = cast_inputs(src)
        out[f"{src}.input"] = values
        out[f"{src}.nan_input"] = nans
        for dst in targets:
            out[f"{src}.to_{dst}"] = values.to(DTYPES[dst])
            assert torch.isnan(nans.to(DTYPES[dst])).all()
    return out


def cast_inputs(src):
    """Every sign and exponent of `src` with mantissas around the ties of the narrower types, and random bit patterns."""
    rng = seeded(f"casts {src}")
    bits, mantissa = WIDTH[src], MANTISSA[src]
    exponents = range(1 << (bits - 1 - mantissa))
    if src == "f64":
        # where f32, bf16 and f16 begin and end, and a few between
        edges = [*range(-152, -124), *range(-28, -12), *range(13, 18), *range(125, 131)]
        exponents = [0, 1, *(1023 + e for e in sorted({*edges, *range(-120, 120, 16)})), 2046, 2047]
    mantissas = {0, 1, (1 << mantissa) - 1}
    for kept in (7, 10, 23):
        drop = mantissa - kept
        if drop > 0:
            # below, at and above the tie, with an even and an odd last kept bit, and the carry into the exponent
            for high in (0, 1, 2, (1 << kept) - 2, (1 << kept) - 1):
                mantissas.update((high << drop) + (1 << (drop - 1)) + step for step in (-1, 0, 1))
    if src == "f64":
        # a tie once it is rounded to f32, not before: 16 bits must be rounded through f32 to get torch's answer
        for kept in (7, 10):
            for high in (0, 1):
                tie = (high << (52 - kept)) + (1 << (51 - kept))
                mantissas.update((tie - (1 << 20), tie + (1 << 20)))
    mantissas = [m for m in sorted(mantissas) if 0 <= m < 1 << mantissa]
    if len(mantissas) < 8:
        mantissas = sorted({*mantissas, *range(0, 1 << mantissa, 1 << (mantissa - 4))})
    patterns = [s << (bits - 1) | e << mantissa | m for s in (0, 1) for e in exponents for m in mantissas]
    # f16 subnormals lie in this range: mantissas at random there, so that every shift is rounded
    if src in ("f32", "f64"):
        bias = (1 << (bits - 2 - mantissa)) - 1
        low, high = (bias - 27) << mantissa, (bias - 13) << mantissa
        patterns += [int(x) for x in rng.integers(low, high, 1024)]
        # the first subnormal bits of bf16 and of f32
        low, high = (0, 1 << mantissa) if src == "f32" else ((bias - 151) << mantissa, (bias - 125) << mantissa)
        patterns += [int(x) for x in rng.integers(low, high, 1024)]
    patterns += [int(x) for x in rng.integers(0, 1 << (bits - 1), 1024)]
    values = from_bits(np.array(patterns, dtype=np.uint64), src)
    if src in ("f32", "f64"):
        named = [65504, 65519.996, 65520, 2**-25, 2.9802326e-8, 2**-24, 1.5 * 2**-24, 3.3895314e38, 3.3961775e38]
        named = torch.tensor(named, dtype=DTYPES[src])
        values = torch.cat([values, named, -named])
    nan = torch.isnan(values)
    return values[~nan].contiguous(), values[nan][:256].contiguous()


# --- int8


def bnb_int8():
    out = {}
    for name, weight in matrices(any_width=True).items():
        if not torch.isfinite(weight.half()).all():
            continue  # overflows fp16: an error in mgpack, an infinite SCB in bitsandbytes
        param = bitsandbytes.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
        out[f"{name}.weight"] = weight
        out[f"{name}.codes"] = param.CB
        out[f"{name}.scb"] = param.SCB
    return out


def compressed_tensors(scheme):
    weights = {f"{name}.weight": w for name, w in matrices(any_width=scheme not in ("W8A16", "FP8_BLOCK")).items()}
    if scheme == "FP8_BLOCK":
        weights |= blocks()
    with tempfile.TemporaryDirectory() as folder:
        src, dst = Path(folder, "src"), Path(folder, "dst")
        src.mkdir()
        save_file(weights, src / "model.safetensors", metadata={"format": "pt"})
        (src / "config.json").write_text(json.dumps({"model_type": "llama"}))
        # the device by name: on a GPU the codes may differ
        model_free_ptq(src, dst, scheme=scheme, device="cpu")
        result = load_file(dst / "model.safetensors")
    out = dict(weights)
    for name, tensor in result.items():
        case, _, param = name.rpartition(".")
        out[f"{case}.out.{param}"] = tensor
    return out


def matrices(any_width):
    """Weights by case name. `any_width`: else only widths that groups of 128 divide."""
    out = {}
    for dtype in WEIGHTS:
        for name, weight in cases(dtype).items():
            if any_width or weight.shape[1] % 128 == 0:
                out[f"{dtype}.{name}"] = weight
    return out


def blocks():
    """Matrices of several blocks of 128 by 128, each of another magnitude, the lowest of fewer rows."""
    out = {}
    for dtype in WEIGHTS:
        dice = seeded(f"{dtype} blocks").integers(-(2**20), 2**20, (6, 130, 256)).sum(0) / 2**24
        for row, column, magnitude in [(0, 128, 2.0**-9), (128, 0, 2.0**5), (128, 128, 0.0)]:
            dice[row : row + 128, column : column + 128] *= magnitude
        out[f"{dtype}.blocks.weight"] = torch.from_numpy(dice).to(DTYPES[dtype])
    return out


def cases(dtype):
    info = torch.finfo(DTYPES[dtype])
    step = info.smallest_normal * info.eps  # the smallest subnormal
    largest = info.max
    out = {}

    def add(name, values):
        values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        out[name] = values.clamp(-largest, largest).to(DTYPES[dtype])

    def bell(name, rows, cols):
        # near normal, from integers alone, so that no libm has a say; standard deviation about 1
        dice = seeded(f"{dtype} {name}").integers(-(2**20), 2**20, (6, rows, cols))
        return dice.sum(0) / 2**20.5

    add("normal", bell("normal", 8, 384) * 0.02)
    add("normal_large", bell("normal_large", 4, 256) * 40)
    # rows from the smallest magnitudes to the largest
    magnitudes = 2.0 ** np.linspace(np.log2(step), np.log2(largest) - 2, 24).round()
    add("all_magnitudes", bell("all_magnitudes", 24, 128) * magnitudes[:, None])
    # what fp16 takes, so that bitsandbytes gets it as well
    add("f16_magnitudes", bell("f16_magnitudes", 24, 128) * 2.0 ** np.arange(-11, 13)[:, None])
    # k + .5 after scaling, by 127 (bitsandbytes) and by 127.5 (compressed-tensors), the largest on either side
    ties = seeded(f"{dtype} ties").integers(-127, 127, (6, 256)) + 0.5
    scales = np.array([1, 1 / 64, 8, 1, 1 / 64, 8])[:, None]
    for peak in (127, 127.5, -127.5):
        tied = ties.copy()
        tied[:, 0] = peak
        tied[:, 128] = peak
        add(f"ties_{peak}".replace("-", "minus_").replace(".", "_"), tied * scales)
    zeros = bell("zeros", 6, 256)
    zeros[::2] = 0.0
    zeros[2] = -0.0
    zeros[1, :128] = 0.0
    zeros[3, ::3] = -0.0
    add("zeros", zeros)
    add("all_zero", np.zeros((3, 128)))
    # magnitudes of a few subnormal steps of the dtype: absmax 1, 2, .. steps, around 63.75, where the scale rounds to 0
    subnormal = bell("subnormal", 12, 128)
    subnormal /= np.abs(subnormal).max(1, keepdims=True)
    counts = np.array([1, 2, 3, 62, 63, 64, 65, 96, 127, 191, 255, 1000])[:, None]
    add("subnormal", (subnormal * counts).round() * step)
    # the same in steps of f16 whatever the dtype: what bitsandbytes rounds to fp16 first
    add("f16_subnormal", (subnormal * counts * 4).round() * 2.0**-26)
    outlier = bell("outlier", 4, 256) * 1e-3
    outlier[:, 5] = [1000, -1000, 30000, -30000]
    add("outlier", outlier)
    add("constant", np.repeat(np.array([[1.0], [-1.0], [0.1], [-0.1], [3e-5], [127.5]]), 128, axis=1))
    peaks = bell("largest", 4, 128) / 8 * largest
    peaks[:, 1] = [largest, -largest, largest, largest]
    peaks[2, 2] = -largest
    add("largest", peaks)
    peaks = bell("f16_largest", 4, 128) / 8 * 65000
    peaks[:, 1] = [65280, -65280, 65280, 65280]
    peaks[3, 2] = 65504 if dtype != "bf16" else 65280
    add("f16_largest", peaks)
    add("one_row", bell("one_row", 1, 256))
    add("one_element", np.array([[-0.3]]))
    add("no_rows", np.zeros((0, 128)))
    for cols in (1, 2, 3, 31, 127, 129, 257):
        add(f"width_{cols}", bell(f"width_{cols}", 5, cols))
    return out


# --- decoding


def decoded():
    """Codes of every kind with scales whose products are nearly all rounded; the widths are no multiples of much."""
    out = {}

    def add(name, parts, expected, weight="weight"):
        module = f"model.layers.0.{name}"
        out.update({f"{module}.{part}": tensor.clone() for part, tensor in parts.items()})
        assert torch.isfinite(expected).all(), name
        out[f"expected.{module}.{weight}"] = expected.to(torch.bfloat16).contiguous().clone()

    for case, shape, block in [("block", (200, 300), 128), ("narrow", (70, 40), 32)]:
        parts = {"weight": fp8(case, shape), "weight_scale_inv": scales(case, [-(-side // block) for side in shape])}
        dequantizer = FP8BlockDequantizer(weight_block_size=(block, block))
        add(f"fp8_{case}", parts, dequantizer.process({f"x.{n}": t for n, t in parts.items()})["x.weight"])
    # transformers takes blocks that divide only
    parts = {"weight": fp8("e8m0", (256, 128)), "scale": exponents("e8m0", (2, 1)).view(torch.float8_e8m0fnu)}
    add("fp8_e8m0", parts, fine_grained(parts["weight"], parts["scale"]))
    parts = {"weight": fp8("e5m2", (8, 48), torch.float8_e5m2), "weight_scale_inv": scales("e5m2", ())}
    add("fp8_e5m2", parts, parts["weight"].float() * parts["weight_scale_inv"])
    for dtype in WEIGHTS:
        scale = scales(f"row {dtype}", (9, 1), DTYPES[dtype])
        add(f"fp8_row_{dtype}", *decompressed("float", {"weight": fp8(dtype, (9, 50)), "weight_scale": scale}, CHANNEL))
        add(f"int8_row_{dtype}", *decompressed("int", {"weight": int8(dtype, (9, 50)), "weight_scale": scale}, CHANNEL))
    zeros = int8("zeros", (9, 1))
    parts = {"weight": int8("zeros", (9, 50)), "weight_scale": scales("zeros", (9, 1), torch.bfloat16)}
    add("int8_zeros", *decompressed("int", parts | {"weight_zero_point": zeros}, CHANNEL | {"symmetric": False}))
    for bits in (1, 2, 3, 4, 5, 6, 7, 8):
        for symmetric in (True, False):
            # zero points of bits that do not divide a word are read by nobody
            if not symmetric and 32 % bits:
                continue
            name, half = f"packed{bits}{'' if symmetric else '_zeros'}", 1 << (bits - 1)
            codes = integers(name, (37, 120), -half, half)
            parts = {
                "weight_packed": pack_to_int32(codes, bits),
                "weight_scale": scales(name, (37, 5), torch.bfloat16),
                "weight_shape": torch.tensor([37, 120]),
            }
            if not symmetric:
                parts["weight_zero_point"] = pack_to_int32(integers(f"{name} zero", (37, 5), -half, half), bits, packed_dim=0)
            weights = {"num_bits": bits, "strategy": "group", "group_size": 24, "symmetric": symmetric}
            add(name, *decompressed("pack", parts, weights))
    # the last word of a row is not full, and one scale a row does not say so
    parts = {
        "weight_packed": pack_to_int32(integers("channel", (5, 61), -8, 8), 4),
        "weight_scale": scales("channel", (5, 1), torch.float16),
        "weight_shape": torch.tensor([5, 61]),
    }
    add("packed4_row", *decompressed("pack", parts, CHANNEL | {"num_bits": 4}))
    codes, magnitudes = int8("scb", (9, 50)), scales("scb", (9,))
    add("scb", {"weight": codes, "SCB": magnitudes}, bitsandbytes.functional.int8_vectorwise_dequant(codes, magnitudes))
    blocks, powers = integers("mxfp4", (3, 10, 2, 16), 0, 256, torch.uint8), exponents("mxfp4", (3, 10, 2))
    add("experts", {"proj_blocks": blocks, "proj_scales": powers}, convert_moe_packed_tensors(blocks, powers), "proj")
    packed, powers = integers("fp4", (10, 32), 0, 256, torch.uint8), exponents("fp4", (10, 2))
    add("fp4", {"weight_packed": packed, "weight_scale": powers}, fine_grained(packed.view(torch.int8), powers))
    return out


CHANNEL = {"num_bits": 8, "strategy": "channel", "symmetric": True}


def decompressed(kind, parts, weights):
    """The parts, and what compressed-tensors decodes them to."""
    compressor = {"pack": PackedQuantizationCompressor}.get(kind, NaiveQuantizationCompressor)
    weights = QuantizationArgs(type="float" if kind == "float" else "int", **weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return parts, compressor.decompress(dict(parts), scheme)["weight"]


def fine_grained(codes, powers):
    return Fp8Dequantize(None)._dequantize_one(codes, powers, torch.bfloat16)


def integers(name, shape, low, high, dtype=torch.int8):
    return torch.from_numpy(seeded(f"codes {name}").integers(low, high, shape)).to(dtype)


def int8(name, shape):
    return integers(f"int8 {name}", shape, -128, 128)


def fp8(name, shape, dtype=torch.float8_e4m3fn):
    """Every finite code."""
    largest = 0x7F if dtype == torch.float8_e4m3fn else 0x7C
    finite = np.array([code for code in range(256) if code & 0x7F < largest], np.uint8)
    return torch.from_numpy(seeded(f"fp8 {name}").choice(finite, shape)).view(dtype)


def scales(name, shape, dtype=torch.float32):
    """From 2^-11 to 2^-7, with every bit of the mantissa."""
    random = seeded(f"scales {name}")
    values = random.integers(2**23, 2**24, shape) / 2.0**23 * 2.0 ** random.integers(-11, -7, shape)
    return torch.from_numpy(np.array(values)).to(dtype)


def exponents(name, shape):
    return integers(f"exponents {name}", shape, 110, 124, torch.uint8)


# --- helpers


def seeded(name):
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def from_bits(bits, dtype):
    signed = {64: np.int64, 32: np.int32, 16: np.int16}[WIDTH[dtype]]
    unsigned = {64: np.uint64, 32: np.uint32, 16: np.uint16}[WIDTH[dtype]]
    return torch.from_numpy(bits.astype(unsigned).view(signed)).view(DTYPES[dtype])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
