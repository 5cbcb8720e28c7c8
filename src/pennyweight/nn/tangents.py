"""Tangents: forward-mode differentiation of a written linear layer, straight through what writing does."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from pennyweight.kernels import primal, tangent
from pennyweight.nn.autocast import without_autocast


def with_tangent(
    y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype,
    read_input: Callable[[Tensor], Tensor], read_weight: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """y [T, O] of x [T, I], weight [O, I], bias [O], with the tangent dY = dX Wq^T + Xq dW^T + db.

    Xq, Wq: the numbers that were multiplied, as `read_input` and `read_weight` tell. Writing passes tangents through as
    it passes gradients; tangents themselves are not written, and their products are computed in `dtype`.

    Ancestor: torch.func.jvp of torch.nn.functional.linear; no casts make it that.
    """
    of_x, of_weight, of_bias = tangent(x), tangent(weight), None if bias is None else tangent(bias)
    parts: list[Tensor] = []
    with torch.no_grad(), without_autocast(y.device):
        if of_x is not None:
            parts.append(functional.linear(of_x.to(dtype), read_weight(primal(weight)).to(dtype)))
        if of_weight is not None:
            parts.append(functional.linear(read_input(primal(x)).to(dtype), of_weight.to(dtype)))
        if of_bias is not None:
            parts.append(of_bias.to(dtype).expand_as(y))
        if not parts:
            return y
        total = parts[0].to(y.dtype)
        for part in parts[1:]:
            total = total + part
    return forward_ad.make_dual(y, total.to(y.dtype))
