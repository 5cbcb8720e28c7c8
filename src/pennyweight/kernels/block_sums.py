"""Block sums: products of int8 codes with one scale for each block of the summed dimension, in one compiled call.

The reference is the loop over blocks in products.py: the same integer sums, added up in another order of roundings.
"""

import torch
from torch import Tensor

from pennyweight.kernels import operators
from pennyweight.kernels.doors import INT32_TERMS
from pennyweight.kernels.integer_linear import RESULTS

SMALLEST = 16  # terms; tiles read shorter blocks filled up to 64, so the loop over blocks is as good
PAYS = 64  # terms, from which on this beats writing both operands and multiplying what they tell in bfloat16


def takes(a: Tensor, b: Tensor, block: int, dtype: torch.dtype) -> bool:
    """Whether codes [M, K] and [N, K] take this way to a result of this dtype here."""
    return (
        a.dtype == b.dtype == torch.int8
        and a.device.type == b.device.type == "cpu"
        and dtype in RESULTS
        and 0 not in (*a.shape, *b.shape)
        and SMALLEST <= block <= INT32_TERMS
        and operators.fused(a.device) is not None
    )


def pays(block: int) -> bool:
    """Whether this way is faster than a product of the decoded values on this machine; a GPU has no such operator.

    4096 x 768 x 3072 on one thread with AMX: bfloat16 alone takes 12.6 ms and writing both operands 12 more; blocks of
    32 38 ms, of 64 20, of 128 13, of 256 10.
    """
    return block >= PAYS and not torch.cuda.is_available() and operators.fused(torch.device("cpu")) is not None


def int8_blocks(
    codes: Tensor, scales: Tensor, right: Tensor, right_scales: Tensor, *, block: int, bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Y[m, n] = sum over b of S_b[m, n] scales[m, b] right_scales[n, b] + bias[n], (M, N), float32 or bfloat16.

    S_b is the exact sum of codes[m, k] right[n, k] over the `block` terms k of block b; codes int8 [M, K] and [N, K],
    scales float32 [M, B] and [N, B], B = ceil(K / block). Summed in float32, block after block, then the bias: with the
    B products P_b without any rounding,

        |error| <= (B + 3) 2^-24 (sum over b of |P_b| + |bias|),   and for bfloat16 2^-8 |Y| more,

    as long as nothing leaves the range of float32. Every processor gives the same bits.
    Ancestor: one block is `int8_linear` without its bias, bit for bit.
    """
    ops = operators.fused(codes.device)
    assert ops is not None
    b = None if bias is None else bias.detach().float().contiguous()
    operands = (codes.contiguous(), scales.float().contiguous(), right.contiguous(), right_scales.float().contiguous())
    return ops.int8_blocks(*operands, block, b, dtype)
