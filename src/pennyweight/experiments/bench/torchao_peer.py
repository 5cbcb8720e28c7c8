"""torchao: its int8 mixed-precision training and its 8-bit AdamW, if installed; the one file that imports it."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module

import torch
from torch import nn


@cache
def missing() -> str | None:
    """Why torchao cannot be measured here; None where it can."""
    try:
        training = import_module("torchao.prototype.quantized_training")
    except ImportError:
        return "not installed"
    return None if hasattr(training, "Int8MixedPrecisionTrainingConfig") else "installed without int8 training"


def convert(blocks: nn.Module) -> int:
    """Converts every nn.Linear below `blocks` in place, as torchao's own training benchmark does; says how many."""
    config = import_module("torchao.prototype.quantized_training").Int8MixedPrecisionTrainingConfig()
    layers = [module for module in blocks.modules() if isinstance(module, nn.Linear)]
    import_module("torchao.quantization").quantize_(blocks, config)
    return sum("torchao" in type(layer.weight).__module__ for layer in layers)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Its 8-bit AdamW, which compiles its step on first use."""
    return import_module("torchao.optim").AdamW8bit(parameters)
