"""Counted noise: which uniform number belongs to an element, given seed, step, tensor name, slot and index.

Nothing is drawn: the noise of an element is a hash of where and when it is used, so a resumed, resharded or reordered
run sees the same bits. One 64-bit key a tensor and step (splitmix64), then a keyed 32-bit hash of the element's index.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_GOLDEN64 = 0x9E3779B97F4A7C15  # splitmix64's increment: 2^64 / golden ratio
_GOLDEN32 = 0x9E3779B9
_WINDOW = 1 << 16  # elements hashed at once: buffers of this size stay in a core's second-level cache


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


def _fold_(x: Tensor, shift: int, buffer: Tensor) -> None:
    """x ^= x >> shift, logically: int32 shifts copy the sign, so it is masked away."""
    torch.bitwise_right_shift(x, shift, out=buffer)
    x.bitwise_xor_(buffer.bitwise_and_((1 << (32 - shift)) - 1))


def _multiply_and_fold_(x: Tensor, buffer: Tensor, added: int = 0) -> None:
    """What mix32 does after its first and before its last fold; `added` before the second product."""
    x.mul_(_MULTIPLIERS[0])
    _fold_(x, 15, buffer)
    if added:
        x.add_(added)
    x.mul_(_MULTIPLIERS[1])


_INDICES: dict[torch.device, Tensor] = {}


def _indices(device: torch.device) -> Tensor:
    """0 .. 65535 in int32, kept between calls."""
    if device not in _INDICES:
        _INDICES[device] = torch.arange(_WINDOW, dtype=torch.int32, device=device)
    return _INDICES[device]


def _folded_window(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """x ^ x >> 16 for x = index ^ key, within one window of 2^16 indices: there the upper half of x is one number."""
    x = (first & 0xFFFF0000) ^ (key & 0xFFFFFFFF)
    offset = first % _WINDOW
    return _indices(device)[offset : offset + count] ^ _signed32(x ^ (x >> 16))


def _folded_any(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """The same for any run of indices that shares its upper 32 bits."""
    x = torch.arange(count, dtype=torch.int32, device=device).add_(_signed32(first)).bitwise_xor_(_signed32(key))
    _fold_(x, 16, torch.empty_like(x))
    return x


def _runs(key: int, start: int, out: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """A piece of `out`, the first folds of its indices `start` and on, and what the rest of the key adds to them."""
    # Fake tensors and traced ones must not meet the kept indices, and a GPU wants few large launches.
    plain = type(out) is Tensor and out.device.type == "cpu" and not torch.compiler.is_compiling()
    folded, window = (_folded_window, _WINDOW) if plain else (_folded_any, 1 << 32)
    first, end = start, start + out.numel()
    while first < end:
        last = min(end, (first // window + 1) * window)
        added = _signed32((key >> 32) + (first >> 32) * _GOLDEN32)
        yield out[first - start : last - start], folded(key, first, last - first, out.device), added
        first = last


def _fractions(x: Tensor, added: int) -> Tensor:
    """The upper 24 bits of the words, as int32, of a run of indices whose first fold is x; changes x."""
    buffer = torch.empty_like(x)
    _multiply_and_fold_(x, buffer)
    _fold_(x, 16, buffer)
    x.add_(added)
    _fold_(x, 16, buffer)
    _multiply_and_fold_(x, buffer)
    x.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)  # the last fold, on what is left of it
    return x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=buffer))


def uniform(
    key: int, shape: tuple[int, ...] | torch.Size, *, start: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Uniform float32 in [0, 1), multiples of 2^-24, for the elements `start` and on in row-major order.

    u_i = (mix32(mix32((i mod 2^32) ^ lo) + hi + (i >> 32) * 0x9E3779B9) >> 8) * 2^-24,  lo, hi = halves of `key`

    `start` is the index of the first element in the full logical tensor, so a slice sees the noise of the whole.
    """
    out = torch.empty(math.prod(shape), dtype=torch.float32, device=device)
    for piece, x, added in _runs(key, start, out):
        piece.copy_(_fractions(x, added))
    return out.mul_(2.0**-24).view(shape)


def halves(
    key: int, shape: tuple[int, ...] | torch.Size, *, start: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Uniform float32 in (0, 1), odd multiples of 2^-17, for the elements `start` and on: a quarter of uniform's work.

    u_i = (h_i + 1/2) 2^-16,  h_i = the lower (i even) or upper (i odd) 16 bits of the word of j = i >> 1,
    word_j = mix32(j mod 2^32, lo, hi + (j >> 32) * 0x9E3779B9): x = j ^ lo, its mix32 with the last argument added
    before the second product.

    For moments, written every step: a probability is met to 2^-17, far below what a thousand steps could tell.
    """
    count, first = math.prod(shape), start >> 1
    words = torch.empty(((start + count + 1) >> 1) - first, dtype=torch.int32, device=device)
    for piece, x, added in _runs(key, first, words):
        buffer = torch.empty_like(x)
        _multiply_and_fold_(x, buffer, added)
        _fold_(x, 16, buffer)
        piece.copy_(x)
    pairs = torch.stack((words & 0xFFFF, (words >> 16) & 0xFFFF), dim=-1).view(-1)
    return pairs[start % 2 : start % 2 + count].float().add_(0.5).mul_(2.0**-16).view(shape)


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
