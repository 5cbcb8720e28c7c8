"""Squares: the sum of the squares of each of many tensors, for their norms and for whether all of them are finite."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pennyweight.kernels import compiled


def squares(tensors: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each tensor, whatever its shape and device; NaN or infinity just if it holds one.

    (Float64 tensors may overflow.) Contiguous float32 and bfloat16 on a CPU are read once, at the speed of memory; the
    number of threads changes no bit. The others, and all where nothing is compiled, go by `squares_by_torch`, which
    adds in another order: 1e-15 apart.
    """
    quick = [_is_quick(tensor) for tensor in tensors]
    ops = compiled.operators() if any(quick) else None
    if ops is None:
        return squares_by_torch(tensors)
    fast = iter(ops.squares([tensor for tensor, it_is in zip(tensors, quick, strict=True) if it_is]).tolist())
    slow = iter(squares_by_torch([tensor for tensor, it_is in zip(tensors, quick, strict=True) if not it_is]))
    return [next(fast) if it_is else next(slow) for it_is in quick]


def squares_by_torch(tensors: Sequence[Tensor]) -> list[float]:
    """The same by PyTorch's own norm: the readable one. One wait for each device."""
    found = [0.0] * len(tensors)
    for device in {tensor.device for tensor in tensors}:
        here = [index for index, tensor in enumerate(tensors) if tensor.device == device]
        norms = torch.stack([torch.linalg.vector_norm(tensors[index].detach(), dtype=torch.float64) for index in here])
        for index, value in zip(here, norms.square().tolist(), strict=True):
            found[index] = value
    return found


def _is_quick(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and tensor.is_contiguous()
    )
