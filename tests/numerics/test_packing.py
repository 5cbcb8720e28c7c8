"""Packed codes come back, in the layout of the card: one little-endian bit stream a row."""

import pytest
import torch

from pennyweight.numerics import pack, unpack
from pennyweight.numerics.packing import packed_length, signed


def stream(codes: list[int], bits: int) -> list[int]:
    """The bytes of one row, by way of one big integer."""
    whole = sum(code << (bits * place) for place, code in enumerate(codes))
    return list(whole.to_bytes(-(-len(codes) * bits // 8), "little"))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("length", range(18))
def test_a_row_is_one_little_endian_bit_stream(bits: int, length: int) -> None:
    generator = torch.Generator().manual_seed(bits * 100 + length)
    codes = torch.randint(0, 2**bits, (3, length), generator=generator).to(torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, packed_length(length, bits))
    assert packed.tolist() == [stream(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack(packed, bits, length), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_survives(bits: int) -> None:
    codes = torch.arange(2**bits).to(torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits, 2**bits), codes)
    numbers = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(signed(unpack(pack(numbers, bits), bits, 2**bits), bits), numbers)


def test_the_first_of_two_4_bit_codes_lies_in_the_low_half() -> None:
    assert pack(torch.tensor([0x1, 0xF, 0x3], dtype=torch.uint8), 4).tolist() == [0xF1, 0x03]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_strided_codes_pack_like_contiguous_ones(bits: int) -> None:
    codes = torch.randint(0, 8, (10, 14)).to(torch.uint8)
    assert torch.equal(pack(codes.T, bits), pack(codes.T.contiguous(), bits))
    assert torch.equal(pack(codes[:, ::3], bits), pack(codes[:, ::3].contiguous(), bits))
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed.T.contiguous().T, bits, 14), codes)


def test_rows_beyond_a_matrix_and_no_rows_pack() -> None:
    codes = torch.randint(0, 4, (2, 3, 5)).to(torch.uint8)
    assert torch.equal(unpack(pack(codes, 2), 2, 5), codes)
    assert pack(codes[:0], 2).shape == (0, 3, 2)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 8 bits, got bits={bits}"):
        pack(torch.zeros(3, dtype=torch.uint8), bits)
    with pytest.raises(ValueError, match=f"1 to 8 bits, got bits={bits}"):
        unpack(torch.zeros(3, dtype=torch.uint8), bits, 3)
