"""Memory: how many bytes the moments of an optimizer hold, and will hold."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pennyweight.optim.moments import Moment, is_written
from pennyweight.optim.notation import moment
from pennyweight.recipes import FEWEST_WRITTEN


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the moments an optimizer holds now: codes, scales and plain tensors; without the step counts."""
    return sum(
        tensor.numel() * tensor.element_size()
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and name != "step"
    )


def predicted_state_bytes(
    shapes: Mapping[str, tuple[int, ...]] | Iterable[tuple[int, ...]] | Mapping[str, Any],
    m: str = "fp32",
    v: str = "fp32",
    *,
    min_numel: int = FEWEST_WRITTEN,
) -> int:
    """Bytes of the moments that AdamW(m=m, v=v) will hold for float32 parameters of these shapes, named or in a row."""
    total = 0
    written = moment(m, "m"), moment(v, "v")
    for shape in shapes.values() if isinstance(shapes, Mapping) else shapes:
        eligible = is_written(tuple(shape), min_numel)
        total += sum(one.bytes(tuple(shape)) for one in (written if eligible else (Moment(), Moment())))
    return total
