"""Tangents: whether forward-mode differentiation runs through tensors, which compiled operators know nothing of.

They would give none without a word, so whoever calls them asks here first.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation (torch.func.jvp, torch.autograd.forward_ad) runs through any of these.

    While a model is compiled: whether it runs at all. What is compiled is then compiled anew where that changes.
    """
    if torch.compiler.is_compiling():
        return getattr(forward_ad, "_current_level", -1) >= 0
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def primal(x: Tensor) -> Tensor:
    """x without its tangent."""
    return forward_ad.unpack_dual(x).primal


def tangent(x: Tensor) -> Tensor | None:
    """The tangent of x, None where it has none."""
    return forward_ad.unpack_dual(x).tangent


def refuse_tangent(grad: Tensor) -> None:
    """Raises RuntimeError where a gradient on its way back through compiled operators has a tangent."""
    if has_tangent(grad):
        raise RuntimeError(
            "the gradients of what Pennyweight's kernels compute have no tangents, so there is no forward-mode "
            "differentiation of a backward pass; take the model before quantize"
        )
