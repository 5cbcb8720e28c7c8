"""Integer linear: the products of a linear layer on int8 codes, one scale a row, in one compiled call each way.

The reference is `multiply` of `write_rows` (products.py, writes.py): the same codes and scales bit for bit, the same
integer sums, and a last rounding of float32 that may differ by one unit in the last place.
"""

import torch
from torch import Tensor

from pennyweight.kernels import operators
from pennyweight.kernels.doors import INT32_TERMS

RESULTS = (torch.float32, torch.bfloat16)
INPUTS = (torch.float32, torch.bfloat16, torch.float16)


def is_compiled(codes: Tensor, weight: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether codes [T, I] and a weight or its codes, [O, I] or [I, O], take this way to results of these dtypes here.

    Not on devices without kernels, for weights that do not lie row by row, sums longer than int32 holds, or empty
    matrices.
    """
    return (
        codes.device == weight.device
        and all(dtype in RESULTS for dtype in dtypes)
        and (weight.dtype in INPUTS or (weight.dtype == torch.int8 and weight.device.type == "cpu"))
        and weight.is_contiguous()
        and type(weight) in (Tensor, torch.nn.Parameter)
        and 0 not in (*codes.shape, *weight.shape)
        and max(*codes.shape, *weight.shape) <= INT32_TERMS
        and operators.fused(codes.device) is not None
    )


def int8_linear(
    codes: Tensor, scales: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool, dtype: torch.dtype,
    weight_scales: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Codes [T, I] with scales [T, 1], weight [O, I] ([I, O] if `turned`) -> Y [T, O] = X W^T + b.

    The weight is written on the way, one scale for each of its O outputs; or it is int8 codes with `weight_scales` [O],
    read as they are (on a CPU). Relative error of each element of Y against float64 on the same codes: 2^-23 (float32)
    or 2^-8 (bfloat16) of the largest of |Y - b| and |b|.
    """
    ops = operators.required("int8_linear", codes.device)
    b = None if bias is None else bias.detach().to(torch.float32).contiguous()
    extra = () if weight_scales is None else (weight_scales,)
    return ops.int8_linear(codes, scales.view(-1), weight.detach(), turned, b, dtype, *extra)


def int8_linear_backward(
    grad: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, *, turned: bool, dtype: torch.dtype,
    weight_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """G [T, O] and what the forward pass kept -> dX [T, I] of `dtype`, dW like the weight, the sum of G over T [O].

    dX = G W with the scales of W folded into G before it is written, one scale a row; dW = G^T X with the scales of X
    folded in, one scale a column. The sum of G is taken in float32, 64 rows after 64 rows (128 on a GPU).
    dW of a weight that is codes is float32.
    """
    ops = operators.required("int8_linear_backward", codes.device)
    extra = () if weight_scales is None else (weight_scales,)
    return ops.int8_linear_backward(grad.contiguous(), codes, scales.view(-1), weight.detach(), turned, dtype, *extra)
