"""Operands: the two sides of a product a @ b.T, unwritten with a cast or already written, as numbers or as codes."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pennyweight.kernels import Codes, codes_of, fills_blocks, is_fused, kind_of, write_rows
from pennyweight.kernels import multiply as multiply_codes
from pennyweight.numerics import Cast, Hadamard, Quantized


@dataclass(frozen=True)
class Raw:
    """A tensor [R, k] not yet written, the cast its slot has for it (None: none) and the key of its noise."""

    tensor: Tensor
    cast: Cast | None = None
    key: int | None = None
    fold: Tensor | None = None  # [1, k]: the other operand's scales, by which this one is multiplied before it is cast

    @property
    def rotation(self) -> Hadamard | None:
        return None if self.cast is None else self.cast.rotation

    def write(self) -> Quantized:
        cast = self.cast
        assert cast is not None
        if self.tensor.is_contiguous() and is_fused(cast, self.tensor):
            codes = write_rows(self.tensor, fold=self.fold, kind=kind_of(cast))
            assert codes.scales is not None
            numbers = codes.numbers if codes.numbers.dtype == torch.int8 else codes.numbers.view(torch.uint8)
            return Quantized(numbers, codes.scales, None, None, tuple(self.tensor.shape), cast)
        if self.fold is None and fills_blocks(cast, self.tensor):
            shape = tuple(self.tensor.shape)
            codes = write_rows(self.tensor.contiguous().view(-1, cast.scale.size))
            assert codes.scales is not None
            return Quantized(codes.numbers.view(shape), codes.scales.view(shape[0], -1), None, None, shape, cast)
        return cast.write(self._folded(), self.key)

    def codes(self) -> Codes:
        assert self.cast is not None
        if is_fused(self.cast, self.tensor):
            return write_rows(self.tensor, fold=self.fold, kind=kind_of(self.cast))
        return codes_of(self.write())

    def values(self, *, rotated: bool) -> Tensor:
        tensor = self._folded()
        if self.cast is None:
            return tensor
        return (self.cast.rounded if rotated else self.cast)(tensor, self.key)

    def folded(self, scales: Tensor) -> "Raw":
        """The same tensor times the other operand's scales [1, k] or [1, 1], one a column of this one."""
        return replace(self, fold=scales)

    def _folded(self) -> Tensor:
        if self.fold is None:
            return self.tensor
        wide = torch.float64 if torch.float64 in (self.tensor.dtype, self.fold.dtype) else torch.float32
        return self.tensor.to(wide) * self.fold


@dataclass(frozen=True)
class Written:
    """A written tensor; `turned`: the operand is its transpose; `bare`: its values in units of the scales."""

    written: Quantized
    turned: bool = False
    bare: bool = False

    @property
    def rotation(self) -> Hadamard | None:
        return None if self.turned else self.written.cast.rotation

    @property
    def scales(self) -> Tensor:
        """One scale a row of the written tensor, [R, 1], or [1, 1]."""
        scales = self.written.scale_values()
        return scales if scales.numel() else scales.new_ones((1, 1))

    def unscaled(self) -> "Written":
        """The operand whose scales have been folded into the other one."""
        return replace(self, bare=True)

    def codes(self) -> Codes:
        codes = codes_of(self.written, bare=self.bare)
        return codes.T if self.turned else codes

    def values(self, *, rotated: bool) -> Tensor:
        if self.bare:
            values = self.written.cast.format.decode(self.written.codes_matrix())
        else:
            values = self.written.read(self.scales.dtype, rotated=rotated)
        return values.T if self.turned else values


Operand = Raw | Written


def multiply(
    a: Operand,
    b: Operand,
    *,
    real: bool,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    out: torch.dtype | None = None,
) -> Tensor:
    """(m, k), (n, k) -> a @ b.T + bias (m, n) of dtype `out` (None: `dtype`).

    Real: on codes. Else on decoded values, rounded once to `dtype` and multiplied in it; two operands of one rotation
    meet in the rotated basis.
    """
    if real:
        return multiply_codes(a.codes(), b.codes(), bias=bias, dtype=out or dtype)
    rotated = a.rotation is not None and a.rotation == b.rotation
    left, right = a.values(rotated=rotated), b.values(rotated=rotated)
    product = functional.linear(left.to(dtype), right.to(dtype), None if bias is None else bias.to(dtype))
    return product.to(out or dtype)


@dataclass(frozen=True)
class Kept:
    """The input a layer keeps for its backward pass: how to read again the tensors that autograd holds.

    names, shape, cast   of a written input; names None: one unwritten tensor [T, I]
    turned               the tensors hold X [T, I], not X^T [I, T]
    stored               written only to be kept: decoded before it meets the cast of its slot, `again`
    """

    names: tuple[str, ...] | None = None
    shape: tuple[int, ...] = ()
    cast: Cast | None = None
    turned: bool = True
    stored: bool = False
    again: Cast | None = None
    key: int | None = None

    @classmethod
    def of(cls, written: Quantized, **how: Any) -> "tuple[Kept, tuple[Tensor, ...]]":
        """A written input and the tensors to hand to autograd."""
        tensors = written.tensors()
        return cls(tuple(tensors), written.shape, written.cast, **how), tuple(tensors.values())

    def load(self, tensors: list[Tensor]) -> Operand:
        """X^T [I, T] from what autograd held."""
        if self.names is None:
            return Raw(tensors[0].T, self.again, self.key)
        assert self.cast is not None
        written = Quantized.from_tensors(dict(zip(self.names, tensors, strict=True)), self.shape, self.cast)
        if self.stored:
            x = written.read(written.scale_values().dtype)
            return Raw(x.T if self.turned else x, self.again, self.key)
        return Written(written, self.turned)
