"""bitsandbytes: its 8-bit AdamW, where it is installed; the one file that imports it."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module

import torch
from torch import nn


@cache
def missing() -> str | None:
    """Why bitsandbytes cannot be measured here; None where it can."""
    try:
        import_module("bitsandbytes.optim")
    except ImportError:
        return "not installed"
    return None


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Its 8-bit AdamW."""
    return import_module("bitsandbytes.optim").AdamW8bit(parameters)
