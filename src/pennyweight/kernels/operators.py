"""Operators: which fused operators a device has: the C++ ones of `cpu/` on a CPU, the Triton ones of `gpu/` on a GPU.

Both know the same names with the same arguments; looking for a GPU's costs a CPU nothing.
"""

from types import ModuleType
from typing import Any

import torch

from pennyweight.kernels import compiled
from pennyweight.kernels.gpu import door


def fused(device: torch.device) -> Any | None:
    """The fused operators for tensors on this device, loaded if need be; None where there are none."""
    if device.type != "cpu":
        return triton(device)
    return torch.ops.pennyweight if compiled.are_loaded() else None


def triton(device: torch.device) -> ModuleType | None:
    """Those of a GPU, which know some more: float8 rows, and rows written turned; None for other devices."""
    return door.operators() if device.type == "cuda" else None


def required(what: str, device: torch.device) -> Any:
    """Those of `fused`. Errors: RuntimeError in one sentence where there are none."""
    if (ops := fused(device)) is None:
        raise compiled.absent(what, compiled.missing() if device.type == "cpu" else door.obstacle())
    return ops
