"""The codes of a format lie in the bytes that a reader without this library would expect."""

import pytest
import torch

from pennyweight.numerics import Integer, format
from pennyweight.numerics.formats import FORMATS
from pennyweight.numerics.layout import code_dtype, pack_codes, stored_dtype, stored_place, stored_width, unpack_codes


@pytest.mark.parametrize(
    ("name", "codes", "stored"),
    [
        ("int2", [-1, 0, 1, 1], [0b10_10_01_00]),  # shifted by one: 0, 1, 2
        ("int4", [-7, 3, -1], [0x39, 0x0F]),  # two's complement, the first in the low half
        ("uint4", [9, 3], [0x39]),
        ("int8", [-127, 5], [-127, 5]),
        ("uint8", [200, 5], [200, 5]),
    ],
)
def test_codes_lie_in_these_bytes_and_come_back(name: str, codes: list[int], stored: list[int]) -> None:
    element = format(name)
    written = torch.tensor([codes], dtype=code_dtype(element))
    packed = pack_codes(element, written)
    assert packed.tolist() == [stored]
    assert packed.dtype == stored_dtype(element)
    assert torch.equal(unpack_codes(element, packed, len(codes)), written)


def test_only_integers_with_a_sign_have_codes_with_a_sign() -> None:
    for element in FORMATS.values():
        if element.bits <= 8:
            assert code_dtype(element) == (torch.int8 if isinstance(element, Integer) else torch.uint8)
    assert code_dtype(format("bf16")) == stored_dtype(format("bf16")) == torch.bfloat16


def test_a_run_of_columns_has_its_bytes_in_a_packed_row() -> None:
    assert stored_width(format("int3"), 9) == 4  # 27 bits
    assert stored_place(format("int3"), slice(8, 17)) == slice(3, 7)  # bits 24 ... 51
    assert stored_width(format("bf16"), 9) == 9
    assert stored_place(format("bf16"), slice(8, 17)) == slice(8, 17)
