"""Layout: how the codes of a format lie in memory: in which dtype, and packed into which bytes of a row."""

import torch
from torch import Tensor

from pennyweight.numerics.formats import Format
from pennyweight.numerics.integers import Integer
from pennyweight.numerics.minifloats import LARGEST_BITS, NATIVE
from pennyweight.numerics.packing import pack, packed_length, signed, unpack


def is_native(element: Format) -> bool:
    """Whether the format is one of torch's own 16- and 32-bit dtypes."""
    return element.bits > LARGEST_BITS


def code_dtype(element: Format) -> torch.dtype:
    """Of the codes, one number each."""
    if is_native(element):
        return NATIVE[element.name]
    return torch.int8 if isinstance(element, Integer) else torch.uint8


def stored_dtype(element: Format) -> torch.dtype:
    """Of the packed codes."""
    return code_dtype(element) if element.bits >= LARGEST_BITS else torch.uint8


def stored_width(element: Format, length: int) -> int:
    """Numbers of `stored_dtype` that a row of `length` codes takes."""
    return length if is_native(element) else packed_length(length, element.bits)


def stored_place(element: Format, cols: slice) -> slice:
    """Where in a packed row the codes of `cols` lie, which begin at a whole byte."""
    return cols if is_native(element) else slice(cols.start * element.bits // 8, packed_length(cols.stop, element.bits))


def pack_codes(element: Format, codes: Tensor) -> Tensor:
    """Codes [..., L] -> packed [..., stored_width(L)]."""
    if element.bits >= LARGEST_BITS:
        return codes
    return pack(codes + 1 if element.bits == 2 and element.signed else codes, element.bits)


def unpack_codes(element: Format, packed: Tensor, length: int) -> Tensor:
    """Packed codes -> codes [..., length] in `code_dtype`."""
    bits = element.bits
    if bits >= LARGEST_BITS:
        return packed
    codes = unpack(packed, bits, length)
    if not isinstance(element, Integer):
        return codes
    return codes.to(torch.int8).sub_(1) if bits == 2 else signed(codes, bits)
