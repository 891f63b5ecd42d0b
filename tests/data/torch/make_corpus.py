"""Writes torch files with the torch that runs it, and beside each what torch.load gives for it, as safetensors.

    python make_corpus.py FOLDER

The safetensors are written here in plain Python, so that an old torch needs no other package: name, type, shape
and the bytes of `.contiguous()`. Nothing random: the same torch gives the same files but for torch's own record
`.data/serialization_id`.
"""

import io
import json
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
TYPES = {getattr(torch, name): short for name, short in NAMES.items() if hasattr(torch, name)}


def raw(tensor):
    """The bytes of a tensor, row-major."""
    tensor = tensor.detach().contiguous()
    if tensor.numel() == 0:
        return b""
    size = tensor.element_size()
    storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage().untyped()
    start = tensor.storage_offset() * size
    return bytes(storage.tolist()[start : start + tensor.numel() * size])


def save_expected(tensors, path):
    header, data = {}, b""
    for name in sorted(tensors):
        tensor, bytes_ = tensors[name], raw(tensors[name])
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(bytes_)],
        }
        data += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def count(shape, dtype, start=1):
    """Numbers that differ in every byte that matters, small enough for every type."""
    length = 1
    for dim in shape:
        length *= dim
    if dtype == torch.bool:
        values = torch.arange(length) % 3 == 0
    elif dtype.is_complex:
        values = torch.complex(torch.arange(length).float() + start, -torch.arange(length).float() / 3).to(dtype)
    else:
        values = ((torch.arange(length) * 7 + start) % 101).to(torch.float32)
        values = (values / 3 - 9 if dtype.is_floating_point and not dtype.is_signed is False else values).to(dtype)
    return values.reshape(shape)


def fixtures():
    """Name, state, options of torch.save, and how to get the tensors out of what torch.load gives."""
    f32, f16 = torch.float32, torch.float16
    every = OrderedDict((f"t.{NAMES_OF[dtype]}", count((3, 5), dtype)) for dtype in TYPES if dtype in NAMES_OF)
    yield "every_dtype", every, {}, lambda state: state
    if hasattr(torch, "uint16"):
        more = [torch.uint16, torch.uint32, torch.uint64]
        yield "unsigned", {str(d): torch.arange(7).to(d) for d in more}, {}, lambda state: state
    base = count((6, 8), f32)
    views = {
        "whole": base,
        "transposed": base.t(),
        "rows": base[2:4],
        "columns": base[:, 3:6],
        "steps": base[::2, 1::3],
        "expanded": base[1].expand(4, 8),
        "scalar": base[5, 7],
        "permuted": count((2, 3, 4), f16).permute(2, 0, 1),
        "channels_last": count((2, 3, 4, 5), f16).contiguous(memory_format=torch.channels_last),
        "unfolded": count((10,), f32).unfold(0, 4, 2),
        "strided": torch.as_strided(count((20,), f16), (3, 4), (1, 1), 5),
    }
    yield "views", views, {}, lambda state: state
    yield "views_alone", {name: view.t() for name, view in {"a": base, "b": base[1:3]}.items()}, {}, lambda s: s
    odd = {
        "zero_d": torch.tensor(3.5),
        "empty": torch.empty(0),
        "empty_matrix": torch.empty(0, 4, dtype=f16),
        "empty_columns": torch.empty(4, 0),
        "one": torch.ones(1, 1, 1, dtype=torch.bool),
        "name with blanks and é": torch.ones(2),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    yield "odd_shapes", odd, {}, lambda state: state
    embed = count((5, 4), f16)
    yield "tied", {"model.embed_tokens.weight": embed, "lm_head.weight": embed, "model.norm.weight": count((4,), f16)}, {}, lambda s: s
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for number, parameter in enumerate(model.parameters()):
        parameter.data = count(tuple(parameter.shape), f32, number)
    yield "state_dict", model.state_dict(), {}, lambda state: state
    yield "parameters", OrderedDict(model.named_parameters()), {}, lambda state: state
    yield "protocol_3", model.state_dict(), {"pickle_protocol": 3}, lambda state: state
    yield "protocol_4", model.state_dict(), {"pickle_protocol": 4}, lambda state: state
    yield "protocol_5", model.state_dict(), {"pickle_protocol": 5}, lambda state: state
    yield "protocol_5_every_dtype", every, {"pickle_protocol": 5}, lambda state: state
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    for number, parameter in enumerate(model.parameters()):
        parameter.data = count(tuple(parameter.shape), f32, number)
    trained = {"epoch": 3, "loss": 0.25, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "tags": {"a"}}
    del trained["tags"]
    yield "nested_model", trained, {}, lambda state: state["model"]
    yield "nested_state_dict", {"state_dict": model.state_dict(), "hparams": {"lr": 1e-3, "name": "x", "big": 2**70}}, {}, lambda state: state["state_dict"]
    yield "nested_module", {"module": {"state_dict": model.state_dict()}, "step": 7}, {}, lambda s: s["module"]["state_dict"]
    yield "beside_tensors", {"w": count((2, 2), f32), "version": 2, "note": "x", "shape": torch.Size([2, 2]), "none": None}, {}, lambda s: {"w": s["w"]}
    yield "large_shape", {"w": count((1,), f16).expand(1000, 1000)[:3, :5]}, {}, lambda state: state
    yield "legacy", model.state_dict(), {"_use_new_zipfile_serialization": False}, lambda state: state
    yield "legacy_views", views, {"_use_new_zipfile_serialization": False}, lambda state: state
    yield "legacy_every_dtype", {k: v for k, v in every.items() if "float8" not in k}, {"_use_new_zipfile_serialization": False}, lambda s: s
    yield "legacy_nested", trained, {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}, lambda s: s["model"]


NAMES_OF = {dtype: str(dtype).removeprefix("torch.") for dtype in TYPES}
for unsigned in ("uint16", "uint32", "uint64"):
    NAMES_OF.pop(getattr(torch, unsigned, None), None)


def rezip(source, target, *, method=zipfile.ZIP_STORED, big=False, force_zip64=False):
    """The same archive as another tool writes it: Python's zipfile. `big` turns the numbers of storages round."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for info in old.infolist():
            if info.filename.endswith("serialization_id"):
                continue
            content = old.read(info)
            if big and "/data/" in info.filename:
                content = big(info.filename.rsplit("/", 1)[1], content)
            if big and info.filename.endswith("byteorder"):
                content = b"big"
            entry = zipfile.ZipInfo(info.filename, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = method
            with new.open(entry, "w", force_zip64=force_zip64) as member:
                member.write(content)
        if big and not any(info.filename.endswith("byteorder") for info in old.infolist()):
            new.writestr(zipfile.ZipInfo(old.infolist()[0].filename.split("/")[0] + "/byteorder", (1980, 1, 1, 0, 0, 0)), b"big")


def turned(state):
    """Turns round the numbers of each storage, by the width that its tensors have."""
    widths = {}
    for number, tensor in enumerate(state.values()):
        width = tensor.element_size() // (2 if tensor.dtype.is_complex else 1)
        widths[str(number)] = width
    def turn(key, content):
        width = widths[key]
        return b"".join(content[at : at + width][::-1] for at in range(0, len(content), width))
    return turn


def write_tar(path):
    """The oldest form (torch 0.1.1): no torch writes it any more; torch.load reads it."""
    protocol = 2
    storages = io.BytesIO()
    numbers = [1.5, -2.0, 0.25, 8.0, 3.0, -7.5]
    pickle.dump(1, storages, protocol)
    storages.write(b"\x80\x02(K\x07X\x03\x00\x00\x00cpuctorch\nFloatStorage\nt.")
    storages.write(struct.pack("<q6f", 6, *numbers))
    pickle.dump([(8, 7, 2, 3)], storages, protocol)
    tensors = io.BytesIO()
    pickle.dump(2, tensors, protocol)
    for key, storage, shape, strides, start in [(11, 7, (2, 3), (1, 2), 0), (12, 8, (2,), (1,), 1)]:
        tensors.write(b"\x80\x02(K" + bytes([key]) + b"K" + bytes([storage]) + b"ctorch\nFloatTensor\nt.")
        tensors.write(struct.pack("<ii", len(shape), 0) + struct.pack(f"<{2 * len(shape)}q", *shape, *strides))
        tensors.write(struct.pack("<q", start))
    state = b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aX\x02\x00\x00\x0011QX\x01\x00\x00\x00bX\x02\x00\x00\x0012Qu."
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in [("storages", storages.getvalue()), ("tensors", tensors.getvalue()), ("pickle", state)]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def main():
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    load = lambda path: torch.load(path, map_location="cpu", **({"weights_only": False} if hasattr(torch, "uint16") else {}))

    def expect(name, pick):
        loaded = pick(load(folder / f"{name}.bin"))
        save_expected({key: value for key, value in loaded.items() if torch.is_tensor(value)}, folder / f"{name}.safetensors")

    every = None
    for name, state, options, pick in fixtures():
        torch.save(state, folder / f"{name}.bin", **options)
        expect(name, pick)
        if name == "every_dtype":
            every = state
    for name, options in {
        "deflated": {"method": zipfile.ZIP_DEFLATED},
        "rezipped": {},
        "zip64": {"force_zip64": True},
    }.items():
        rezip(folder / "views.bin", folder / f"{name}.bin", **options)
        expect(name, lambda state: state)
    if hasattr(torch, "uint16"):
        plain = {key: value for key, value in every.items() if "float8" not in key}
        torch.save(plain, folder / "big_endian.tmp")
        rezip(folder / "big_endian.tmp", folder / "big_endian.bin", big=turned(plain))
        (folder / "big_endian.tmp").unlink()
        expect("big_endian", lambda state: state)
    write_tar(folder / "tar.bin")
    expect("tar", lambda state: state)
    print(torch.__version__, len(list(folder.glob("*.bin"))), "files")


if __name__ == "__main__":
    main()
