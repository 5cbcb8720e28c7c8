"""Product: int8 x int8 on tensor cores, summed in int32; scales and bias at the output, in bf16 or float32.

out[m, n] = row[m] column[n] sum_k left[m, k] right[n, k] + bias[n]. Both operands lie row by row along the sum, the
only order that Hopper's 8-bit instructions read.
"""

import torch
from torch import Tensor

from pennyweight.kernels.gpu.language import blocks, constexpr, jit, tl

GROUP = 8  # rows of tiles computed together: their operands stay in the second-level cache
# Rows, columns and terms of a tile, warps, and stages of the pipeline. The integers are exact whatever the tile.
TILES = ((128, 256, 128, 8, 3), (128, 128, 128, 8, 4), (64, 64, 128, 4, 4))  # no register is spilled for sm_90


def tile_of(rows: int, columns: int, processors: int) -> tuple[int, int, int, int, int]:
    """The largest tile of which there are enough for nearly every processor of the GPU; else the smallest."""
    for tile in TILES:
        if 4 * blocks(rows, tile[0]) * blocks(columns, tile[1]) >= 3 * processors:
            return tile
    return TILES[-1]


@jit
def _product_kernel(
    left_ptr, right_ptr, row_ptr, column_ptr, bias_ptr, out_ptr, M, N, K,
    ROW: constexpr, COLUMN: constexpr, BIAS: constexpr, EVEN: constexpr,
    BM: constexpr, BN: constexpr, BK: constexpr, GROUP: constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    down, across = tl.cdiv(M, BM), tl.cdiv(N, BN)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(down - first, GROUP)
    m = (first + program % (GROUP * across) % height) * BM + tl.arange(0, BM)
    n = program % (GROUP * across) // height * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    # Rows behind the end are read again from the start and not stored: no load needs a mask across rows.
    left = left_ptr + (m % M).to(tl.int64)[:, None] * K + k[None, :]
    right = right_ptr + (n % N).to(tl.int64)[None, :] * K + k[:, None]
    total = tl.zeros((BM, BN), tl.int32)
    for step in range(tl.cdiv(K, BK)):
        if EVEN:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=k[None, :] < K - step * BK, other=0)
            b = tl.load(right, mask=k[:, None] < K - step * BK, other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        left += BK
        right += BK
    out = total.to(tl.float32)
    if ROW:
        out = out * tl.load(row_ptr + m, mask=m < M, other=0.0)[:, None]
    if COLUMN:
        out = out * tl.load(column_ptr + n, mask=n < N, other=0.0)[None, :]
    if BIAS:
        out = out + tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    place = m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


def product(
    left: Tensor, right: Tensor, row: Tensor | None, column: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """int8 [M, K] and [N, K], contiguous, float32 row [M], column [N] and bias [N] (None: 1, 1, 0) -> [M, N]."""
    (M, K), N = left.shape, right.shape[0]
    out = left.new_empty((M, N), dtype=dtype)
    bm, bn, bk, warps, stages = tile_of(M, N, _processors(left.device))
    _product_kernel[(blocks(M, bm) * blocks(N, bn),)](
        left, right, *(left if one is None else one for one in (row, column, bias)), out, M, N, K,
        ROW=row is not None, COLUMN=column is not None, BIAS=bias is not None, EVEN=K % bk == 0,
        BM=bm, BN=bn, BK=bk, GROUP=GROUP, num_warps=warps, num_stages=stages, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _processors(device: torch.device) -> int:
    """Multiprocessors of the GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
