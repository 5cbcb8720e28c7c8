"""Codebooks: lists of numbers that are no arithmetic progression and no floating point, built once by rule."""

from struct import pack, unpack


def _float32(values: list[float]) -> tuple[float, ...]:
    return tuple(unpack("<f", pack("<f", value))[0] for value in values)


# Source: Dettmers et al. 2023, arXiv:2305.14314 (NF4, the table of bitsandbytes): 7 negative and 8 positive values.
_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def _decades(bits: int, *, signed: bool) -> list[float]:
    """Midpoints of 2^i (signed) or 2^(i+1) equal parts of [0.1, 1], one decade lower for each exponent field less."""
    fields = bits - 1
    result = []
    for i in range(fields):
        parts = 2**i if signed else 2 ** (i + 1)
        result += [(0.1 + 0.9 * (k + 0.5) / parts) * 10.0 ** (i - fields + 1) for k in range(parts)]
    return result


def dynamic(bits: int, *, signed: bool) -> tuple[float, ...]:
    """The dynamic tree code: 0, the decades' midpoints (both signs when signed) and +1.

    Source: Dettmers 2015, arXiv:1511.04561; Dettmers et al. 2021, arXiv:2110.02861. Signed reaches +1 but not -1.
    """
    positive = _decades(bits, signed=signed)
    negative = [-value for value in positive] if signed else []
    return _float32(sorted([*negative, 0.0, *positive, 1.0]))


def dynamic_symmetric(bits: int) -> tuple[float, ...]:
    """The signed dynamic code with its outermost midpoint moved to 1 on both sides: 2^bits - 1 values, no bias."""
    positive = [*sorted(_decades(bits, signed=True))[:-1], 1.0]
    return _float32(sorted([*(-value for value in positive), 0.0, *positive]))


def power(bits: int, exponent: int) -> tuple[float, ...]:
    """(k/N)^exponent for k = 1 .. N = 2^bits: no zero.

    Source: Li, Chen, Zhu 2023, arXiv:2309.01507 (exponent 1).
    """
    count = 2**bits
    return _float32([(k / count) ** exponent for k in range(1, count + 1)])


CODEBOOKS: dict[str, tuple[tuple[float, ...], int]] = {
    "nf4": (_float32(_NF4), 4),
    **{f"dynamic{bits}": (dynamic(bits, signed=True), bits) for bits in (8, 4)},
    **{f"udynamic{bits}": (dynamic(bits, signed=False), bits) for bits in (8, 4)},
    **{f"dynamic_sym{bits}": (dynamic_symmetric(bits), bits) for bits in (8, 4)},
    **{f"linear_nz{bits}": (power(bits, 1), bits) for bits in (8, 4)},
    **{f"sqrt_nz{bits}": (power(bits, 2), bits) for bits in (8, 4)},
}
