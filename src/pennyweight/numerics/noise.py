"""Counted noise: which uniform number belongs to an element, given seed, step, tensor name, slot and index.

Nothing is drawn: the noise of an element is a hash of where and when it is used, so a resumed, resharded or reordered run
sees the same bits. One 64-bit key per tensor and step (splitmix64), then a keyed 32-bit hash of the element's index.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_GOLDEN64 = 0x9E3779B97F4A7C15  # splitmix64's increment: 2^64 / golden ratio
_GOLDEN32 = 0x9E3779B9
_CHUNK = 1 << 16  # elements hashed at once: three int32 buffers of this size stay in a core's second-level cache


def _mix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def key(seed: int, step: int, name: str, slot: str) -> int:
    """The 64-bit key of one tensor's noise at one step; `slot` holds the micro-batch where that matters.

    Source: splitmix64 (Steele, Lea, Flood 2014) over seed, blake2b(name|slot) and step.
    """
    h = int.from_bytes(blake2b(f"{name}|{slot}".encode(), digest_size=8).digest(), "little")
    return _mix64((_mix64(_mix64((seed + _GOLDEN64) & _MASK64) ^ h) + step * _GOLDEN64) & _MASK64)


def _signed32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


_MULTIPLIERS = (_signed32(0x7FEB352D), _signed32(0x846CA68B))  # the "lowbias32" hash


def _fold(x: Tensor, shift: int, buffer: Tensor) -> None:
    torch.bitwise_right_shift(x, shift, out=buffer)
    buffer.bitwise_and_((1 << (32 - shift)) - 1)  # int32 shifts copy the sign; the hash wants zeros
    x.bitwise_xor_(buffer)


def _mix32(x: Tensor, buffer: Tensor) -> None:
    _fold(x, 16, buffer)
    x.mul_(_MULTIPLIERS[0])
    _fold(x, 15, buffer)
    x.mul_(_MULTIPLIERS[1])
    _fold(x, 16, buffer)


_NUMBERS: dict[torch.device, Tensor] = {}


def _numbers(count: int, device: torch.device) -> Tensor:
    """0 .. count - 1 in int32; those of a chunk are kept between calls."""
    if count > _CHUNK or device.type != "cpu" or torch.compiler.is_compiling():
        return torch.arange(count, dtype=torch.int32, device=device)
    if device not in _NUMBERS:
        _NUMBERS[device] = torch.arange(_CHUNK, dtype=torch.int32, device=device)
    return _NUMBERS[device][:count]


def words(key: int, start: int, count: int, *, device: torch.device | str | None = None) -> Tensor:
    """The 32-bit words (as int32) of elements start .. start + count - 1."""
    pieces = []
    first = start
    while first < start + count:  # a piece never crosses a multiple of 2^32, where the upper half of the index changes
        last = min(start + count, ((first >> 32) + 1) << 32)
        low = first & 0xFFFFFFFF
        x = _numbers(last - first, device) + _signed32(low)  # wraps modulo 2^32
        buffer = torch.empty_like(x)
        x.bitwise_xor_(_signed32(key))
        _mix32(x, buffer)
        x.add_(_signed32((key >> 32) + (first >> 32) * _GOLDEN32))
        _mix32(x, buffer)
        pieces.append(x)
        first = last
    if not pieces:
        return torch.empty(0, dtype=torch.int32, device=device)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def uniform(
    key: int, shape: tuple[int, ...] | torch.Size, *, start: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Uniform float32 in [0, 1), multiples of 2^-24, for the elements `start` and on in row-major order.

    u_i = (mix32(mix32((i mod 2^32) ^ lo) + hi + (i >> 32) * 0x9E3779B9) >> 8) * 2^-24,  lo, hi = halves of `key`

    `start` is the index of the first element in the full logical tensor, so a slice sees the noise of the whole.
    """
    count = 1
    for extent in shape:
        count *= extent
    out = torch.empty(count, dtype=torch.float32, device=device)
    chunk = _CHUNK if out.device.type == "cpu" else max(count, 1)
    for first in range(0, count, chunk):
        size = min(chunk, count - first)
        w = words(key, start + first, size, device=device)
        w.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
        torch.mul(w, 2.0**-24, out=out[first : first + size])
    return out.view(shape)


@dataclass
class Counter:
    """Where a run stands: the only thing the noise depends on besides names and indices.

    The optimizer advances it once a step; recomputation and a second backward pass do not. Checkpoints hold it.
    """

    seed: int = 0
    step: int = 0
    micro_batch: int = 0

    def key(self, name: str, slot: str) -> int:
        """The noise key of one tensor's slot now: the slot's text gets the micro-batch."""
        return key(self.seed, self.step, name, f"{slot}#{self.micro_batch}")

    def advance(self) -> None:
        """One optimizer step is over."""
        self.step += 1
        self.micro_batch = 0

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"seed": self.seed, "step": self.step, "micro_batch": self.micro_batch}

    def load(self, state: dict[str, int]) -> None:
        """Stands where the checkpoint stood."""
        self.seed, self.step, self.micro_batch = (int(state[name]) for name in ("seed", "step", "micro_batch"))
