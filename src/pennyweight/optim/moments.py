"""Moments: what an average of gradients is stored in, and how its packed codes are read and written slice by slice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pennyweight.numerics import Cast, Quantized, halves

PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARTS = ("codes", "scales", "zeros", "extra")  # of a written tensor; all but the codes hold one number a block
VERSION = 1  # of the stored layout


def is_written(shape: tuple[int, ...], min_numel: int) -> bool:
    """Whether the moments of a tensor of that shape are written: of two dimensions or more and large enough."""
    return len(shape) >= 2 and math.prod(shape) >= min_numel


@dataclass(frozen=True)
class Moment:
    """What m or v of a tensor is stored in: a plain tensor, or the codes and scales of a cast.

    Blocks run along the flattened, row-major parameter; row and tensor scales belong to the parameter's own shape.
    The stored tensors stand in one dictionary under `slot` (plain) or `slot.codes`, `slot.scales` … (written).
    `cast` is None for plain tensors that are rounded to nearest by their dtype.

    For a reader without this library, code k of block i (4-bit codes stand two a byte, the first in the low half) is
    intN  k scales[i]         logN  scales[i] 2^(-extra[i] (1 - k/(2^N - 1)))      uintN  (k + zeros[i]) scales[i]
    e4m3  float8(k) scales[i]       expand_e4m3  sign |float8(k)/448|^(1/extra[i]) scales[i]
    codebooks  values[k] scales[i], the values in rising order.
    Source: Dettmers et al., arXiv:2110.02861 (moments in blocks).
    Ancestor: "fp32" is what torch.optim.AdamW keeps.
    Costs: `bytes(shape)`.
    """

    text: str = "fp32"
    cast: Cast | None = None

    @property
    def written(self) -> bool:
        """Whether the moment is stored otherwise than torch would."""
        return self.text != "fp32"

    @property
    def plain(self) -> bool:
        """Whether it is one ordinary tensor, without codes and scales."""
        return self.text in PLAIN

    @property
    def block(self) -> int | None:
        """Elements of one block of the flattened parameter; None where scales belong to rows or to the whole tensor."""
        if self.plain:
            return 1
        assert self.cast is not None
        return self.cast.scale.block if self.cast.scale.granularity == "block" else None

    @property
    def header(self) -> dict[str, Any]:
        """What tells a reader without this library how to decode; JSON-able."""
        if self.plain:
            bits = torch.finfo(PLAIN[self.text]).bits
            return {
                "code": self.text,
                "bits": bits,
                "block": None,
                "signed": True,
                "cast": self.text,
                "version": VERSION,
            }
        assert self.cast is not None
        code, scale = self.cast.format, self.cast.scale
        form = {"code": code.name, "bits": code.bits, "block": scale.block, "signed": code.signed}
        return {**form, "granularity": scale.granularity, "cast": self.text, "version": VERSION}

    def bytes(self, shape: tuple[int, ...]) -> int:
        """Storage of the moment of a tensor of this shape: codes and scales."""
        if self.plain:
            return math.prod(shape) * torch.finfo(PLAIN[self.text]).bits // 8
        assert self.cast is not None
        return self.cast.bytes((math.prod(shape),) if self.block else shape)

    def nearest(self) -> "Moment":
        """The same storage, rounded to nearest."""
        return replace(self, cast=None if self.cast is None or self.plain else replace(self.cast, rounding="nearest"))

    def stored(self, slot: str, values: Tensor, *, key: int | None = None, start: int = 0) -> dict[str, Tensor]:
        """The storage of `values`; where scales belong to rows or to the tensor, in the parameter's shape.

        Codes that are rounded stochastically take the noise's `halves`.
        """
        if self.plain:
            rounded = values if self.cast is None else self.cast(values, key, start)
            return {slot: rounded.to(PLAIN[self.text]) if self.written else rounded.clone()}
        assert self.cast is not None
        written = self.cast.write((values.reshape(-1) if self.block else values).float(), key, start, halves)
        parts = {f"{slot}.{part}": getattr(written, part) for part in PARTS}
        return {name: tensor.reshape(-1) for name, tensor in parts.items() if tensor is not None}

    def nothing(
        self, slot: str, shape: tuple[int, ...], *, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """The storage of zeros; `dtype` is that of an unwritten moment."""
        if self.plain:
            return {slot: torch.zeros(shape, dtype=PLAIN[self.text] if self.written else dtype, device=device)}
        assert self.cast is not None
        if not self.block:
            return self.nearest().stored(slot, torch.zeros(shape, device=device))
        number = math.prod(shape)
        one = self.nearest().stored(slot, torch.zeros(min(number, self.block), device=device))
        sizes = {name: -(-number // self.block) for name in one} | {f"{slot}.codes": self._bytes(number)}
        return {name: torch.zeros(sizes[name], dtype=tensor.dtype, device=device) for name, tensor in one.items()}

    def read(self, slot: str, state: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int) -> Tensor:
        """Elements start … stop of the flattened moment as numbers; a view of the storage where that is plain."""
        if self.plain:
            return state[slot].view(-1)[start:stop]
        return self._quantized(slot, state, shape, start, stop).read().view(-1)

    def codes(
        self, slot: str, state: Mapping[str, Tensor], shape: tuple[int, ...], start: int = 0, stop: int | None = None
    ) -> Tensor:
        """The codes of elements start … stop of the flattened moment, one element each; without blocks, of all."""
        stop = math.prod(shape) if stop is None else stop
        return self._quantized(slot, state, shape, start, stop).codes_matrix().reshape(-1)

    def write(
        self,
        slot: str,
        state: Mapping[str, Tensor],
        values: Tensor,
        shape: tuple[int, ...],
        start: int,
        *,
        key: int | None,
        offset: int = 0,
    ) -> None:
        """Stores `values` as elements start … of the flattened moment; noise is counted from offset + start."""
        if self.plain and not self.written and state[slot].dtype == values.dtype:
            into = state[slot].view(-1)[start : start + values.numel()]
            if into.data_ptr() != values.data_ptr():
                into.copy_(values)
            return
        stop = start + values.numel()
        values = values if self.block else values.view(shape)
        for name, tensor in self.stored(slot, values, key=key, start=offset + start).items():
            self._part(slot, name, state[name], start, stop).copy_(tensor)

    def _quantized(
        self, slot: str, state: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Quantized:
        assert self.cast is not None
        rows = 1 if self.block else math.prod(shape[:-1])
        groups = rows if self.block or self.cast.scale.granularity == "row" else 1
        parts = {
            name.removeprefix(f"{slot}."): self._part(slot, name, tensor, start, stop)
            for name, tensor in state.items()
            if name.startswith(f"{slot}.")
        }
        parts = {name: tensor.view(rows if name == "codes" else groups, -1) for name, tensor in parts.items()}
        return Quantized.from_tensors(parts, (stop - start,) if self.block else shape, self.cast)

    def _part(self, slot: str, name: str, tensor: Tensor, start: int, stop: int) -> Tensor:
        """What elements start … stop own of a stored tensor."""
        if self.plain:
            return tensor.view(-1)[start:stop]
        if not self.block:
            return tensor
        if name == f"{slot}.codes":
            return tensor[self._bytes(start) : self._bytes(stop)]
        return tensor[start // self.block : -(-stop // self.block)]

    def _bytes(self, number: int) -> int:
        assert self.cast is not None
        return -(-number * self.cast.format.bits // 8)
