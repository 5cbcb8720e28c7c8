"""Written AdamW: one step on moments in 8 bits, in one pass over memory.

The reference is optim/update.py: decode, average, move, write. Here the same formulas run on vectors, with a table and
a cubic for log2 and a series for the probabilities of v's codes, so that codes may differ by one step where a value
lies between two (about one in fifty thousand; the tests hold one in a thousand). A GPU has the same step in Triton.
Costs, on a CPU: 16 bytes of memory traffic a parameter; about 55 vector
instructions for 16 parameters to nearest, 75 stochastic.

A weight without a master copy (`numerics.Stored`) is read from its codes, moved by the same step and written again, a
chunk at a time: there the reference is `Stored.rewrite` of what the step makes of `Stored.values()`, bit for bit.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pennyweight.kernels import operators
from pennyweight.numerics import Cast, Integer, Scale, Stored
from pennyweight.numerics.companding import LogRange

LARGEST_BLOCK = 2048  # kLargestBlock of cpu/moments.h
LARGEST_OCTAVES = 40.0  # of a block of v: a step of more than 0.16 octaves would want a longer series for its noise
MOST_CODES = 1 << 32  # of a weight: their noise is counted in 32 bits
NUMBERS = ("decay", "rise_m", "keep_v", "rise_v", "correction", "size", "eps")  # of a step, as the operators want them
PARTS = ("m.codes", "m.scales", "v.codes", "v.scales", "v.extra")  # of the stored moments
UNIT = 32  # elements whose noise is made at once: blocks and slices begin at a multiple of it


def steps_at_once(m: Cast | None, v: Cast | None, weights: Tensor, gradient: Tensor, start: int = 0) -> bool:
    """Whether `adamw_step` knows these casts of m and v for these tensors here: int8 and log8 in blocks."""
    return (
        m is not None
        and v is not None
        and isinstance(m.format, Integer)
        and (m.format.bits, m.format.unit) == (8, 1.0)
        and isinstance(v.format, LogRange)
        and v.format.bits == 8
        and v.format.octaves <= LARGEST_OCTAVES
        and m.stochastic == v.stochastic
        and start % UNIT == 0
        and all(_in_plain_blocks(cast) for cast in (m, v))
        and max(m.scale.block or 0, v.scale.block or 0) % min(m.scale.block or 1, v.scale.block or 1) == 0
        and (weights.device.type == "cpu" or all(_is_power_of_two(cast.scale.size) for cast in (m, v)))
        and weights.device == gradient.device
        and weights.dtype == torch.float32
        and gradient.dtype in (torch.float32, torch.bfloat16)
        and type(weights) in (Tensor, torch.nn.Parameter)
        and (ops := operators.fused(weights.device)) is not None
        and ops.has_adamw()
    )


def rewrites_at_once(cast: Cast, m: Cast | None, v: Cast | None, stored: Stored, gradient: Tensor) -> bool:
    """Whether `adamw_step_on_codes` knows these casts of the weight and of its moments here: int8, one scale a row."""
    codes = stored.codes
    return (
        codes.device.type == gradient.device.type == "cpu"
        and 0 < codes.numel() <= MOST_CODES
        and codes.is_contiguous()
        and isinstance(cast.format, Integer)
        and (cast.format.bits, cast.format.unit) == (8, 1.0)
        and cast.scale in (Scale("row"), Scale("row", number="pow2"))
        and cast.rotation is None
        and steps_at_once(m, v, gradient.new_empty(0, dtype=torch.float32), gradient)
    )


def adamw_step(
    weights: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    *,
    m: Cast,
    v: Cast,
    numbers: Mapping[str, float],
    keys: Mapping[str, int],
    start: int = 0,
) -> None:
    """One step in place on [n] weights and their stored moments ("m.codes", "m.scales", "v.codes", "v.scales" …).

    numbers: NUMBERS; keys: of the noise of "m" and "v", where a cast rounds stochastically; start: index of the first
    element in it.
    m += rise_m (g - m);  v = keep_v v + rise_v g^2;  w = decay w - size m / (sqrt(v) correction + eps).
    """
    ops = operators.fused(weights.device)
    assert ops is not None
    moments = _moments([state[part] for part in PARTS], m, v)
    ops.adamw_step(weights, gradient, *moments, _scalars(numbers, v), _key(m, keys, "m"), _key(v, keys, "v"), start)
    increment_version(weights)  # what an operator writes in place, autograd does not notice by itself


def adamw_steps(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    numbers: Sequence[Mapping[str, float]],
    keys: Sequence[Mapping[str, int]],
    *,
    m: Cast,
    v: Cast,
) -> None:
    """`adamw_step` on many whole parameters on a CPU in one call, each with its own numbers and keys; the same bits.

    Between two calls the processor's caches forget what leads to the next one, and threads wait for the last task.
    """
    moments = _moments([[state[part] for state in states] for part in PARTS], m, v)
    scalars = [number for one in numbers for number in _scalars(one, v)]
    noisy = keys if m.stochastic else []
    torch.ops.pennyweight.adamw_steps(
        weights,
        gradients,
        *moments,
        scalars,
        [_key(m, one, "m") for one in noisy],
        [_key(v, one, "v") for one in noisy],
    )
    increment_version(weights)


def adamw_step_on_codes(
    stored: Stored,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    *,
    cast: Cast,
    m: Cast,
    v: Cast,
    numbers: Mapping[str, float],
    keys: Mapping[str, int],
) -> None:
    """`adamw_step` on a whole weight that is its codes, which `cast` writes again, with noise of the key "weights".

    gradient: like the weight, contiguous. Counts the numbers that were told to move, and those that stayed.
    """
    ops = operators.fused(gradient.device)
    assert ops is not None
    moments, scales = _moments([state[part] for part in PARTS], m, v), stored.scales
    counts = ops.adamw_step_on_codes(
        stored.codes, scales, stored.turned, cast.scale.number == "pow2", gradient, *moments, _scalars(numbers, v),
        _key(cast, keys, "weights"), _key(m, keys, "m"), _key(v, keys, "v"),
    )  # fmt: skip
    increment_version((stored.codes, scales))
    stored.keep_scales(scales)
    stored.moved, stored.swallowed = counts.tolist()


def _moments(parts: Sequence[object], m: Cast, v: Cast) -> tuple[object, ...]:
    """The stored moments (PARTS, of one parameter or of many) and their blocks, as the operators take them."""
    return (*parts[:2], m.scale.block, *parts[2:], v.scale.block)


def _scalars(numbers: Mapping[str, float], v: Cast) -> list[float]:
    """The numbers of one step, and how far a block of v may reach."""
    assert isinstance(v.format, LogRange)
    return [*(numbers[name] for name in NUMBERS), v.format.octaves]


def _key(cast: Cast, keys: Mapping[str, int], slot: str) -> int | None:
    """A slot's 64-bit noise key as the signed number an operator takes; None for a cast that rounds to nearest."""
    if not cast.stochastic:
        return None
    key = keys[slot]
    return key - (1 << 64) if key >> 63 else key


def _in_plain_blocks(cast: Cast) -> bool:
    block = cast.scale.block
    return (
        cast.scale.granularity == "block"
        and block is not None
        and block % UNIT == 0
        and block <= LARGEST_BLOCK
        and cast.scale.number == "fp32"
        and cast.scale.arithmetic == "float32"
        and not cast.scale.floor
        and cast.rotation is None
    )


def _is_power_of_two(block: int) -> bool:
    """As Triton wants every extent to be."""
    return block & (block - 1) == 0
