"""Rows: a matrix as int8 or float8 codes with one scale a row; one program a row, read once where it fits."""

import torch
from torch import Tensor

from pennyweight.kernels.gpu.language import constexpr, jit, power_of_two, tl
from pennyweight.kernels.gpu.scaling import float8_code, int8_code, magnitude_bits, scale_of

WIDEST = 8192  # numbers of a row held in registers: 32 a thread of 8 warps
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LIMITS = {torch.int8: 127.0, E4M3: 448.0, E5M2: 57344.0}


@jit
def _row(x_ptr, fold_ptr, start, columns, FOLDED: constexpr, WIDTH: constexpr):
    """Numbers start … of a row in float32, folded; zeros behind its end."""
    place = start + tl.arange(0, WIDTH)
    y = tl.load(x_ptr + place, mask=place < columns, other=0.0).to(tl.float32)
    if FOLDED:
        y = y * tl.load(fold_ptr + place, mask=place < columns, other=0.0)
    return y


@jit
def _store(codes_ptr, y, scale, start, columns, LIMIT: constexpr, WIDTH: constexpr):
    place = start + tl.arange(0, WIDTH)
    if LIMIT == 127.0:
        code = int8_code(y, scale)
    elif LIMIT == 448.0:
        code = float8_code(y, scale, 3, 2.0**-6)
    else:
        code = float8_code(y, scale, 2, 2.0**-14)
    tl.store(codes_ptr + place, code.to(codes_ptr.dtype.element_ty), mask=place < columns)


@jit
def _rows_kernel(
    x_ptr, fold_ptr, codes_ptr, scales_ptr, stride, columns,
    FOLDED: constexpr, LIMIT: constexpr, WIDTH: constexpr, FITS: constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    codes_ptr += row * columns
    if FITS:
        y = _row(x_ptr, fold_ptr, 0, columns, FOLDED, WIDTH)
        scale = scale_of(tl.max(magnitude_bits(y), 0), LIMIT)
        _store(codes_ptr, y, scale, 0, columns, LIMIT, WIDTH)
    else:
        bits = tl.zeros((WIDTH,), tl.int32)
        for start in range(0, columns, WIDTH):
            bits = tl.maximum(bits, magnitude_bits(_row(x_ptr, fold_ptr, start, columns, FOLDED, WIDTH)))
        scale = scale_of(tl.max(bits, 0), LIMIT)
        for start in range(0, columns, WIDTH):
            y = _row(x_ptr, fold_ptr, start, columns, FOLDED, WIDTH)
            _store(codes_ptr, y, scale, start, columns, LIMIT, WIDTH)
    tl.store(scales_ptr + row, scale)


def write_rows(x: Tensor, fold: Tensor | None, kind: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """x [R, C] with rows anywhere, times fold [C] where given -> codes [R, C] of `kind`, scales [R] in float32.

    Ancestor: fold None is Cast(int8 | e4m3 | e5m2, row).write(x), codes and scales bit for bit.
    """
    R, C = x.shape
    codes, scales = x.new_empty((R, C), dtype=kind), x.new_empty((R,), dtype=torch.float32)
    width = power_of_two(C, largest=WIDEST)
    _rows_kernel[(R,)](
        x, x if fold is None else fold, codes, scales, x.stride(0), C,
        FOLDED=fold is not None, LIMIT=LIMITS[kind], WIDTH=width, FITS=width >= C,
        num_warps=min(8, max(1, width // 512)), enable_fp_fusion=False,
    )  # fmt: skip
    return codes, scales
