"""Products: multiply two written matrices in the arithmetic of their codes, and undo the scales outside the sum.

out[m, n] = sum_k a[m, k] b[n, k]. A scale survives only if it can leave the sum over k: one a row or one a tensor
leaves at the output, blocks along k and square blocks cost one partial sum a block, any other stands inside the sum.
"""

from dataclasses import dataclass, replace
from math import gcd

import torch
from torch import Tensor

from pennyweight.kernels import block_sums, doors
from pennyweight.numerics import Cast, Integer, Minifloat, Quantized
from pennyweight.numerics.minifloats import FLOAT8

CHUNK = 1 << 18  # elements scaled at once: 1 MB of float32 stays in a core's second-level cache


@dataclass(frozen=True)
class Codes:
    """A written matrix [R, C] as a kernel reads it: numbers of 8 bits, and scales that stand outside.

    numbers     int8, or float8, [R, C]
    scales      float32; None: 1; [R, 1] or [1, 1]: a row or the tensor; [R, blocks]: blocks of `block` along C;
                with `square` [row blocks, blocks]: tiles of block x block
    """

    numbers: Tensor
    scales: Tensor | None = None
    block: int | None = None
    square: bool = False

    @property
    def T(self) -> "Codes":
        """The transposed matrix; raises ValueError where a scale would then stand inside the sum."""
        if self.square and self.scales is not None:
            return replace(self, numbers=self.numbers.T, scales=self.scales.T)
        if self.scales is not None and (self.block is not None or self.scales.shape[0] > 1):
            raise ValueError(
                "codes with one scale a row or a block cannot be turned: fold the scale or write them again"
            )
        return replace(self, numbers=self.numbers.T)

    def part(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Columns start .. stop of one block: their numbers, and the scale of every row, [R, 1] or [1, 1]."""
        numbers = self.numbers[:, start:stop]
        if self.scales is None:
            return numbers, numbers.new_ones((1, 1), dtype=torch.float32)
        if self.block is None:
            return numbers, self.scales
        column = self.scales[:, start // self.block, None]
        if self.square:
            column = column.repeat_interleave(self.block, 0)[: numbers.shape[0]]
        return numbers, column

    def block_scales(self, step: int) -> Tensor:
        """The scale of every row in every block of `step` columns, [R, blocks]."""
        if self.scales is not None and self.block == step and not self.square:
            return self.scales
        rows, columns = self.numbers.shape
        return torch.cat([self.part(start, start + step)[1].expand(rows, 1) for start in range(0, columns, step)], 1)


def product(a: Quantized, b: Quantized, *, bias: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Written (m, k), written (n, k) -> a.read() @ b.read().T + bias, (m, n), in the arithmetic of the codes.

    Scales are undone in float32 (float64 for a float64 result). Raises ValueError naming the operand whose codes cannot
    be summed as they stand.
    """
    if why := real_reason(a.cast, b.cast):
        raise ValueError(why)
    return multiply(codes_of(a), codes_of(b), bias=bias, dtype=dtype)


def multiply(a: Codes, b: Codes, *, bias: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """(m, k), (n, k) -> (m, n): `product` for codes whose legality is known."""
    if a.block is None and b.block is None:
        if dtype == torch.bfloat16 and doors.float8_is_linear(a.numbers, b.numbers):
            return doors.float8_linear(a.numbers, b.numbers, a.scales, b.scales, bias)
        total = _sum(a.numbers, b.numbers)
        return _scaled(total, a.scales, b.scales, bias, dtype)
    step = gcd(a.block or 0, b.block or 0)
    if block_sums.takes(a.numbers, b.numbers, step, dtype):
        return block_sums.int8_blocks(
            a.numbers, a.block_scales(step), b.numbers, b.block_scales(step), block=step, bias=bias, dtype=dtype
        )
    return sum_blocks(a, b, step, bias=bias, dtype=dtype)


def sum_blocks(a: Codes, b: Codes, step: int, *, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(m, k), (n, k) -> (m, n): a product for each `step` terms, scaled and added up; what `int8_blocks` meets."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.zeros(a.numbers.shape[0], b.numbers.shape[0], dtype=wide, device=a.numbers.device)
    if bias is not None:
        out += bias.to(wide)
    for start in range(0, a.numbers.shape[1], step):
        left, left_scale = a.part(start, start + step)
        right, right_scale = b.part(start, start + step)
        _add_scaled(out, _sum(left, right), left_scale, right_scale)
    return out.to(dtype)


def codes_of(written: Quantized, *, bare: bool = False) -> Codes:
    """The numbers and scales of a written matrix whose cast `real_reason` accepts; `bare`: in units of its scales."""
    cast = written.cast
    form, granularity = cast.format, cast.scale.granularity
    numbers, unit = written.codes_matrix(), 1.0
    if form.name in FLOAT8:
        numbers = numbers.view(FLOAT8[form.name])
    elif isinstance(form, Minifloat):
        unit = _unit(form)
        numbers = form.decode(numbers).div_(unit).to(torch.int8)
    elif isinstance(form, Integer):
        unit = form.unit
    if bare:
        return Codes(numbers, None if unit == 1.0 else torch.full((1, 1), unit, device=numbers.device))
    scales = written.scale_values()
    scales = scales if unit == 1.0 else scales * unit
    block = cast.scale.block if granularity in ("block", "square") else None
    return Codes(numbers, scales, block, granularity == "square")


def real_reason(left: Cast, right: Cast) -> str | None:
    """Why left @ right.T cannot be computed on codes by PyTorch's operators, naming the operand; None if it can."""
    for side, cast in (("left", left), ("right", right)):
        if why := _one_sided_reason(cast):
            return f"the {side} operand, cast {cast}, cannot be multiplied as codes: {why}"
    if (left.format.name in FLOAT8 or right.format.name in FLOAT8) and left.format != right.format:
        return (
            f"the right operand, cast {right}, cannot be multiplied as codes with {left}: "
            f"no operator of PyTorch takes {left.format.name} times {right.format.name}"
        )
    if left.rotation != right.rotation:
        return f"the right operand, cast {right}, is not rotated like the left one, cast {left}: codes lie in two bases"
    sizes = sorted(cast.scale.block or 0 for cast in (left, right) if _blocked(cast))
    if len(sizes) == 2 and sizes[1] % sizes[0]:
        return (
            f"the right operand, cast {right}, has blocks that do not line up with those of the left one, cast {left}"
        )
    return None


def slow_reason(left: Cast, right: Cast) -> str | None:
    """Why computing on codes, though possible, costs more here than multiplying the decoded values; None if it pays.

    What "auto" goes by. Blocks pay where one compiled operator sums them, from a length that it names.
    """
    blocks = [cast.scale.size for cast in (left, right) if _blocked(cast)]
    if blocks and (left.format.name in FLOAT8 or not block_sums.pays(gcd(*blocks))):
        return "possible, but one partial sum a block costs more than a product of the decoded values"
    if left.format.name in FLOAT8 and not doors.float8_is_fast():
        return "possible, but this PyTorch sums float8 products on a CPU one number at a time"
    return None


def _one_sided_reason(cast: Cast) -> str | None:
    form, granularity = cast.format, cast.scale.granularity
    if granularity == "column":
        return "one scale a column stands inside the sum"
    if form.name in FLOAT8 or isinstance(form, Integer):
        return None
    if isinstance(form, Minifloat) and form.bits < 8 and form.max <= 127 * _unit(form):
        return None
    if isinstance(form, Minifloat):
        return f"{form.name} spans more than the 8 bits of an integer product"
    if form.name.startswith("uint"):
        return "its zero points stay inside the sum"
    return f"codes of {form.name} are places in a table"


def _unit(form: Minifloat) -> float:
    """The smallest positive value, of which all the others are multiples."""
    return form.magnitudes[1]


def _blocked(cast: Cast) -> bool:
    return cast.scale.granularity in ("block", "square")


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return doors.int8_product(a, b) if a.dtype == torch.int8 else doors.float8_product(a, b)


def _scaled(
    total: Tensor, row: Tensor | None, column: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """total * row * column.T + bias, rows by rows, so that what is in between stays in cache."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    m, n = total.shape
    out = torch.empty(m, n, dtype=dtype, device=total.device)
    rows = max(1, CHUNK // max(n, 1)) if total.device.type == "cpu" else max(m, 1)
    buffer = torch.empty(min(rows, m), n, dtype=wide, device=total.device)
    row = None if row is None else row.to(wide)
    column = None if column is None else column.to(wide).T
    bias = None if bias is None else bias.to(wide)
    for start in range(0, m, rows):
        stop = min(start + rows, m)
        chunk = out[start:stop] if dtype == wide else buffer[: stop - start]
        chunk.copy_(total[start:stop])
        if row is not None:
            chunk.mul_(row if row.shape[0] == 1 else row[start:stop])
        if column is not None and bias is not None:
            torch.addcmul(bias, chunk, column, out=chunk)
        elif column is not None:
            chunk.mul_(column)
        elif bias is not None:
            chunk.add_(bias)
        if dtype != wide:
            out[start:stop] = chunk
    return out


def _add_scaled(out: Tensor, total: Tensor, row: Tensor, column: Tensor) -> None:
    """out += total * row * column.T, rows by rows."""
    m, n = out.shape
    rows = max(1, CHUNK // max(n, 1)) if out.device.type == "cpu" else max(m, 1)
    buffer = torch.empty(min(rows, m), n, dtype=out.dtype, device=out.device)
    row, column = row.to(out.dtype), column.to(out.dtype).T
    for start in range(0, m, rows):
        stop = min(start + rows, m)
        chunk = buffer[: stop - start].copy_(total[start:stop])
        chunk.mul_(row if row.shape[0] == 1 else row[start:stop])
        out[start:stop].addcmul_(chunk, column)
