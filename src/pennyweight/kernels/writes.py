"""Writes: a matrix as 8-bit codes with one scale a row, in as few passes over memory as can be, and back.

What `Cast.write` gives, bit for bit, for the casts that integer products are made of; two things more: numbers are
multiplied by another operand's scales on the way (folding), and a transposed matrix is written where it lies.
"""

import math

import torch
from torch import Tensor

from pennyweight.kernels import operators
from pennyweight.kernels.doors import float8_is_fast
from pennyweight.kernels.products import Codes
from pennyweight.numerics import Cast, Integer, Quantized, Scale, cast
from pennyweight.numerics.grids import TINY
from pennyweight.numerics.minifloats import FLOAT8

CHUNK = 1 << 16  # numbers handled at once: two float32 buffers of 256 kB stay in a core's second-level cache
PLAIN = Scale("row")
INT8_ROW = cast("int8/row")


def is_int8_row(cast: Cast | None) -> bool:
    """Whether a cast is integers of 8 bits, a float32 scale a row, rounded to nearest, and nothing else."""
    return cast is not None and cast.scale == PLAIN and _is_plain_int8(cast)


def _is_plain_int8(cast: Cast) -> bool:
    return (
        isinstance(cast.format, Integer)
        and cast.format.bits == 8
        and cast.format.unit == 1.0
        and cast.rounding == "nearest"
        and cast.rotation is None
    )


def fills_blocks(cast: Cast, x: Tensor) -> bool:
    """Whether x [R, C] is written in int8 with a float32 scale for each block of a row, none of which is cut short.

    Its blocks, one below the other, then are rows that `write_rows` writes.
    """
    block = cast.scale.block
    return (
        block is not None
        and cast.scale == Scale("block", block)
        and _is_plain_int8(cast)
        and x.shape[-1] % block == 0
        and is_fused(INT8_ROW, x)
    )


def is_float8_row(cast: Cast | None) -> bool:
    """Whether a cast is e4m3 or e5m2, a float32 scale a row, rounded to nearest, and nothing else."""
    return (
        cast is not None
        and cast.format.name in FLOAT8
        and cast.scale == PLAIN
        and cast.rounding == "nearest"
        and cast.rotation is None
    )


def kind_of(cast: Cast) -> torch.dtype:
    """The dtype of the codes of a cast that is fused."""
    return FLOAT8.get(cast.format.name, torch.int8)


def is_fused(cast: Cast, x: Tensor) -> bool:
    """Whether `write_rows` knows this cast of this tensor: int8, on a GPU also float8 that lies row by row."""
    return (
        (is_int8_row(cast) or (x.is_cuda and x.stride(-1) == 1 and is_float8_row(cast) and float8_is_fast()))
        and x.dim() == 2
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and (x.device.type == "cpu" or operators.triton(x.device) is not None)
        and type(x) in (Tensor, torch.nn.Parameter)  # a fake tensor's chunks cost time and save nothing
        and x.numel() > 0
    )


def write_rows(x: Tensor, *, fold: Tensor | None = None, kind: torch.dtype = torch.int8) -> Codes:
    """x [R, C], times `fold` [1, C] or [1, 1] where given, in int8 with one scale a row; x.T may be the one in memory.

    kind: a float8 dtype on a GPU.
    Ancestor: fold None is Cast(int8, row).write(x), codes and scales bit for bit.
    """
    lies_turned = x.stride(0) == 1 and x.stride(1) != 1
    if (ops := operators.triton(x.device)) is not None:
        by = None if fold is None else fold.float().expand(1, x.shape[1]).contiguous().view(-1)
        if lies_turned and kind == torch.int8:
            numbers, scales = ops.write_turned(x.detach().T, by)
        else:
            rows = x.detach() if x.stride(1) == 1 else x.detach().contiguous()
            numbers, scales = ops.write_rows(rows, by, kind)
        return Codes(numbers, scales.view(-1, 1))
    assert kind == torch.int8, "float8 is written by `Cast.write` where `is_fused` says no"
    if lies_turned:
        numbers, scales = _columns(x.T, None if fold is None else fold.T)
        return Codes(numbers.T, scales.T)
    return Codes(*_rows(x, fold))


def read_rows(written: Quantized, dtype: torch.dtype) -> Tensor:
    """The tensor that was written, in `dtype`: in C++ where it is int8 on a CPU with one float32 scale a row.

    Ancestor: written.read(dtype), bit for bit.
    """
    codes = written.codes
    fused = (
        codes.device.type == "cpu"
        and is_int8_row(written.cast)
        and dtype in (torch.float32, torch.bfloat16)
        and written.scales.dtype == torch.float32
        and type(codes) is Tensor
        and codes.is_contiguous()
        and codes.numel() > 0
    )
    if not fused or (ops := operators.fused(codes.device)) is None:
        return written.read(dtype)
    return ops.read_rows(codes, written.scales.view(-1), dtype).view(written.shape)


def _rows(x: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
    """One scale a row, a chunk of rows at a time: read once, written once."""
    R, C = x.shape
    if x.stride(1) == 1 and (ops := operators.fused(x.device)) is not None:
        numbers, scales = ops.write_rows(
            x.detach(), None if fold is None else fold.float().expand(1, C).contiguous().view(-1)
        )
        return numbers, scales.view(-1, 1)
    numbers = torch.empty(R, C, dtype=torch.int8, device=x.device)
    scales = torch.empty(R, 1, device=x.device)
    height = min(R, max(1, CHUNK // C))
    buffer, magnitude = (torch.empty(height, C, device=x.device) for _ in range(2))
    for start in range(0, R, height):
        part = x[start : start + height]
        y = buffer[: part.shape[0]].copy_(part)
        if fold is not None:
            y.mul_(fold)
        largest = torch.abs(y, out=magnitude[: part.shape[0]]).amax(1, keepdim=True)
        divisor, scale = _scale(largest)
        scales[start : start + height] = scale
        numbers[start : start + height] = y.div_(divisor).round_()
    return numbers, scales


def _columns(x: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
    """One scale a column, [1, C]: the largest magnitudes first, then the codes; `fold` [R, 1]."""
    R, C = x.shape
    numbers = torch.empty(R, C, dtype=torch.int8, device=x.device)
    height = min(R, max(1, CHUNK // C))
    buffer, magnitude = (torch.empty(height, C, device=x.device) for _ in range(2))

    def folded(start: int) -> Tensor:
        part = x[start : start + height]
        y = buffer[: part.shape[0]].copy_(part)
        return y if fold is None else y.mul_(fold if fold.shape[0] == 1 else fold[start : start + height])

    largest = torch.zeros(1, C, device=x.device)
    for start in range(0, R, height):
        y = folded(start)
        torch.maximum(largest, torch.abs(y, out=magnitude[: y.shape[0]]).amax(0, keepdim=True), out=largest)
    divisor, scales = _scale(largest)
    for start in range(0, R, height):
        numbers[start : start + height] = folded(start).div_(divisor).round_()
    return numbers, scales


def _scale(largest: Tensor) -> tuple[Tensor, Tensor]:
    """What each group is divided by, and its scale: 0 for a group of zeros, NaN for one that is not finite."""
    scale = largest / 127.0
    dead = largest < 127.0 * TINY
    scale = torch.where(scale.isfinite(), scale.masked_fill(dead, 0.0), math.nan)
    return scale.masked_fill(dead, math.inf), scale
