"""Statistics: what a recipe costs against the baseline, how sure that is, and what to call it in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# 97.5 % points of Student's t for 1 ... 30 degrees of freedom (any printed table); beyond, the series below.
T_POINTS = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_POINT = 1.959964  # the 97.5 % point of the normal distribution
THRESHOLDS = (0.5, 1.0, 5.0)  # percent of the baseline's loss: states, 8-bit recipes, 4-bit recipes


Mark = Literal["holds", "open", "fails"]  # a verdict as a sign: yes, cannot be told, no


def t_point(degrees: int) -> float:
    """The 97.5 % point of Student's t: half the width of a 95 % interval in standard errors.

    Source: beyond 30 degrees of freedom the first two terms of the Cornish-Fisher series in 1/degrees
    (Abramowitz and Stegun 26.7.5), right to 0.001 there.
    """
    if degrees < 1:
        raise ValueError(f"a t-interval needs at least 1 degree of freedom, got {degrees}")
    if degrees <= len(T_POINTS):
        return T_POINTS[degrees - 1]
    z = NORMAL_POINT
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


@dataclass(frozen=True)
class Spread:
    """Some numbers told by their mean, their standard deviation and the 95 % t-interval of the mean.

    `deviation`, `low` and `high` are None where a single number leaves the spread unknown.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None

    @property
    def spans_zero(self) -> bool:
        """Whether 0 is in the interval: these numbers cannot tell the mean from nothing. False where it is unknown."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation (n - 1) and 95 % t-interval of the mean of `values` (at least one, all finite)."""
    count = len(values)
    if not count or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a spread needs at least one number and only finite ones, got {list(values)}")
    mean = math.fsum(values) / count
    if count == 1:
        return Spread(tuple(values), mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = t_point(count - 1) * deviation / math.sqrt(count)
    return Spread(tuple(values), mean, deviation, mean - half, mean + half)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """Seed -> difference to the baseline's run of the same seed; seeds that only one side has are left out.

    The same seed means the same initial weights and the same order of data, so most of the noise cancels.
    """
    return {seed: values[seed] - baseline[seed] for seed in sorted(values) if seed in baseline}


def relative(values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """Seed -> difference to the baseline's run of the same seed, in percent of it."""
    return {seed: 100 * change / baseline[seed] for seed, change in paired(values, baseline).items()}


def verdict(cost: Spread, *, thresholds: Sequence[float] = THRESHOLDS) -> str:
    """What `cost`, a loss difference in percent (positive is worse), means in words.

    The smallest threshold that holds the mean is named; whether the whole interval is inside says how sure it is. An
    interval with 0 in it says that these seeds cannot tell the cost from none, not that there is none.
    """
    inside = next((limit for limit in thresholds if cost.mean <= limit), None)
    if cost.low is None or cost.high is None:
        said = f"within {inside:g} %" if inside is not None else f"misses {thresholds[-1]:g} %"
        return f"{said} on one seed; the spread is unknown"
    if cost.high < 0:
        return f"within {inside:g} %, better than the baseline"
    doubt = f"; {len(cost.values)} seeds cannot tell it from 0" if cost.spans_zero else ""
    surely = next((limit for limit in thresholds if cost.high <= limit), None)
    if inside is None:
        sure = cost.low > thresholds[-1]
        said = f"misses {thresholds[-1]:g} %" + ("" if sure else " on average, not surely")
    elif surely is None:
        said = f"within {inside:g} % on average; the interval reaches {cost.high:.2g} %"
    else:
        said = f"within {surely:g} %" + (f", on average within {inside:g} %" if surely > inside else "")
    return said + doubt


def mark(cost: Spread, *, thresholds: Sequence[float] = THRESHOLDS) -> Mark:
    """The verdict of `verdict` as a sign: what surely stays within a threshold holds, what surely misses all fails."""
    if cost.low is None or cost.high is None:
        return "open"
    return "holds" if cost.high <= thresholds[-1] else "fails" if cost.low > thresholds[-1] else "open"
