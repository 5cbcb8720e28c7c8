"""Columns: a matrix as int8 codes with one scale a column, lying as it did or turned, and the sums of its columns.

A product on tensor cores wants both operands row by row along the summed dimension, so a gradient's columns are
written turned, and codes that lie the other way are turned in one pass.
"""

import torch
from torch import Tensor

from pennyweight.kernels.gpu.language import blocks, constexpr, jit, tl
from pennyweight.kernels.gpu.scaling import int8_code, magnitude_bits, scale_of

STRIP = 128  # rows measured by one program, and summed in one float32 partial sum
TALL, WIDE = 32, 128  # of the tile a program reads at once
EDGE = 64  # of the square tile that is turned


@jit
def _measure_kernel(
    x_ptr, fold_ptr, largest_ptr, sums_ptr, stride, rows, columns,
    FOLDED: constexpr, STRIP: constexpr, TALL: constexpr, WIDE: constexpr,
):  # fmt: skip
    """Of a strip of rows: the largest |x fold| of every column, as bits, and the sum of x."""
    strip = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    bits = tl.zeros((TALL, WIDE), tl.int32)
    sums = tl.zeros((TALL, WIDE), tl.float32)
    for start in range(0, STRIP, TALL):
        row = strip * STRIP + start + tl.arange(0, TALL)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        y = tl.load(x_ptr + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        sums += y
        if FOLDED:
            y = y * tl.load(fold_ptr + row, mask=row < rows, other=0.0)[:, None]
        bits = tl.maximum(bits, magnitude_bits(y))
    place = strip * columns + column
    tl.store(largest_ptr + place, tl.max(bits, 0), mask=column < columns)
    tl.store(sums_ptr + place, tl.sum(sums, 0), mask=column < columns)


@jit
def _finish_kernel(largest_ptr, sums_ptr, scales_ptr, total_ptr, strips, columns, WIDE: constexpr):
    """The scales and the whole sums of the columns, from those of the strips, one after the other."""
    column = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    inside = column < columns
    bits = tl.zeros((WIDE,), tl.int32)
    total = tl.zeros((WIDE,), tl.float32)
    for strip in range(strips):
        place = strip * columns + column
        bits = tl.maximum(bits, tl.load(largest_ptr + place, mask=inside, other=0))
        total += tl.load(sums_ptr + place, mask=inside, other=0.0)
    tl.store(scales_ptr + column, scale_of(bits, 127.0), mask=inside)
    tl.store(total_ptr + column, total, mask=inside)


@jit
def _codes_kernel(
    x_ptr, fold_ptr, scales_ptr, codes_ptr, stride, rows, columns,
    FOLDED: constexpr, TURNED: constexpr, EDGE: constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * EDGE + tl.arange(0, EDGE)
    column = tl.program_id(1).to(tl.int64) * EDGE + tl.arange(0, EDGE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    y = tl.load(x_ptr + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if FOLDED:
        y = y * tl.load(fold_ptr + row, mask=row < rows, other=0.0)[:, None]
    codes = int8_code(y, tl.load(scales_ptr + column, mask=column < columns, other=0.0)[None, :])
    if TURNED:
        place = column[:, None] * rows + row[None, :]
        tl.store(codes_ptr + place, tl.trans(codes), mask=(column[:, None] < columns) & (row[None, :] < rows))
    else:
        tl.store(codes_ptr + row[:, None] * columns + column[None, :], codes, mask=inside)


@jit
def _turn_kernel(codes_ptr, turned_ptr, rows, columns, EDGE: constexpr):
    row = tl.program_id(0).to(tl.int64) * EDGE + tl.arange(0, EDGE)
    column = tl.program_id(1).to(tl.int64) * EDGE + tl.arange(0, EDGE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    codes = tl.load(codes_ptr + row[:, None] * columns + column[None, :], mask=inside, other=0)
    place = column[:, None] * rows + row[None, :]
    tl.store(turned_ptr + place, tl.trans(codes), mask=(column[:, None] < columns) & (row[None, :] < rows))


def write_columns(x: Tensor, fold: Tensor | None, *, turned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x [R, C], times fold [R] where given -> int8 codes [R, C] ([C, R] if `turned`), scales [C], sums of x [C].

    Ancestor: Cast(int8, row).write(x.T), codes and scales bit for bit. Sums are float32, 128 rows after 128 rows.
    """
    R, C = x.shape
    strips, wide = blocks(R, STRIP), blocks(C, WIDE)
    largest = x.new_empty((strips, C), dtype=torch.int32)
    sums = x.new_empty((strips, C), dtype=torch.float32)
    scales, total = x.new_empty((C,), dtype=torch.float32), x.new_empty((C,), dtype=torch.float32)
    codes = x.new_empty((C, R) if turned else (R, C), dtype=torch.int8)
    folded = {"FOLDED": fold is not None, "enable_fp_fusion": False}
    by = x if fold is None else fold
    _measure_kernel[(strips, wide)](
        x, by, largest, sums, x.stride(0), R, C, **folded, STRIP=STRIP, TALL=TALL, WIDE=WIDE
    )
    _finish_kernel[(wide,)](largest, sums, scales, total, strips, C, WIDE=WIDE, enable_fp_fusion=False)
    _codes_kernel[(blocks(R, EDGE), blocks(C, EDGE))](
        x, by, scales, codes, x.stride(0), R, C, **folded, TURNED=turned, EDGE=EDGE
    )
    return codes, scales, total


def turn(codes: Tensor) -> Tensor:
    """int8 codes [R, C], contiguous -> [C, R], contiguous."""
    R, C = codes.shape
    turned = codes.new_empty((C, R))
    _turn_kernel[(blocks(R, EDGE), blocks(C, EDGE))](codes, turned, R, C, EDGE=EDGE)
    return turned
