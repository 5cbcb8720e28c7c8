"""Precision: the arithmetic of everything that a recipe does not write."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16"]


def precise(precision: str, device: str) -> AbstractContextManager[Any]:
    """The stretch of code that computes so on a device: autocast to bf16, or float32 as it is."""
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
