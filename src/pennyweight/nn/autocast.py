"""Autocast: in which dtype a product runs where torch casts by itself, and how to do without."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(*operands: Tensor) -> torch.dtype | None:
    """What autocast makes of a product of these; None where it is off, or leaves float64 as it is."""
    device = operands[0].device
    if not (has_autocast(device) and torch.is_autocast_enabled(device.type)):
        return None
    if torch.float64 in [operand.dtype for operand in operands]:
        return None
    return torch.get_autocast_dtype(device.type)


def has_autocast(device: torch.device) -> bool:
    """Whether there is such a thing for this device; for meta there is not, and torch's own functions raise."""
    return torch.amp.is_autocast_available(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A stretch of code whose dtypes are its own."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device) else nullcontext()
