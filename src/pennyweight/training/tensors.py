"""Tensor files: safetensors written straight from memory, with the checksum made on the way."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# The format's names of the element types: https://github.com/huggingface/safetensors, README "Format".
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Writes `tensors` as a safetensors file, fsynced, and returns its SHA-256.

    Costs: no second copy, unlike `safetensors.torch.save_file`, which turns every tensor into bytes first; a tensor
    that is not contiguous or not on the CPU is copied alone. Errors: OSError (a full disk).
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # widest first keeps all aligned
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for name in order:
            tensor = tensors[name].detach().cpu().contiguous()
            if tensor.numel():
                part = tensor.flatten().view(torch.uint8).numpy().data
                file.write(part)
                digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no dict


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def apart(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """The tree (dicts, lists, tuples, numbers, texts) as JSON; its tensors go to `tensors` under their path.

    `together` undoes it, keys that are numbers and tuples included. Errors: TypeError for anything else in the tree.
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"$tensor": path}
    if isinstance(tree, dict):
        return {
            "$dict": [[key, apart(one, tensors, f"{path}.{key}" if path else f"{key}")] for key, one in tree.items()]
        }
    if isinstance(tree, list | tuple):
        kind = "$tuple" if isinstance(tree, tuple) else "$list"
        return {kind: [apart(one, tensors, f"{path}.{i}") for i, one in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a checkpoint holds tensors, numbers and texts, got {type(tree).__name__} at {path}")


def together(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `apart` took apart."""
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "$tensor":
        return tensors[held]
    if kind == "$dict":
        return {key: together(one, tensors) for key, one in held}
    made = [together(one, tensors) for one in held]
    return tuple(made) if kind == "$tuple" else made
