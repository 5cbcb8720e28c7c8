"""Packing: how codes of 2 to 7 bits share bytes: one little-endian bit stream a row, the first code in the low bits."""

import torch
from torch import Tensor


def packed_length(length: int, bits: int) -> int:
    """Bytes of one packed row of `length` codes."""
    return -(-length * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes [..., L] of `bits` bits (uint8, or int8 in two's complement) -> uint8 [..., ceil(L bits / 8)]."""
    if not 1 <= bits <= 8:
        raise ValueError(f"packing takes codes of 1 to 8 bits, got bits={bits}")
    raw = codes.contiguous().view(torch.uint8).bitwise_and((1 << bits) - 1)
    length = raw.shape[-1]
    if bits == 8 or length == 0:
        return raw
    if bits == 4:
        raw = torch.nn.functional.pad(raw, (0, 1)) if length % 2 else raw
        pairs = raw.contiguous().view(torch.int16)  # low byte is the first code
        return pairs.bitwise_or(pairs >> 4).to(torch.uint8)  # keeps the low byte
    padding = -length % 8
    raw = torch.nn.functional.pad(raw, (0, padding)).unflatten(-1, (-1, 8))
    places = torch.arange(bits, device=raw.device, dtype=torch.uint8)
    stream = (raw.unsqueeze(-1) >> places).bitwise_and_(1).flatten(-2)  # [..., L/8, 8 bits], lowest bit first
    weights = 2 ** torch.arange(8, device=raw.device, dtype=torch.uint8)
    packed = (stream.unflatten(-1, (bits, 8)) * weights).sum(-1, dtype=torch.uint8)
    return packed.flatten(-2)[..., : packed_length(length, bits)].contiguous()


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """uint8 [..., ceil(length bits / 8)] -> uint8 codes [..., length]."""
    if not 1 <= bits <= 8:
        raise ValueError(f"packing takes codes of 1 to 8 bits, got bits={bits}")
    if bits == 8:
        return packed
    if bits == 4:
        wide = packed.to(torch.int16)
        pairs = wide.bitwise_or(wide << 4).bitwise_and_(0x0F0F)
        return pairs.contiguous().view(torch.uint8)[..., :length]
    groups = -(-length // 8)
    packed = torch.nn.functional.pad(packed, (0, groups * bits - packed.shape[-1])).unflatten(-1, (groups, bits))
    places = torch.arange(8, device=packed.device, dtype=torch.uint8)
    stream = (packed.unsqueeze(-1) >> places).bitwise_and_(1).flatten(-2).unflatten(-1, (8, bits))
    weights = 2 ** torch.arange(bits, device=packed.device, dtype=torch.uint8)
    return (stream * weights).sum(-1, dtype=torch.uint8).flatten(-2)[..., :length]


def signed(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes in two's complement of `bits` bits -> int8."""
    return codes.bitwise_left_shift(8 - bits).view(torch.int8).bitwise_right_shift(8 - bits)
