"""Certainty: how likely an interval on one side of a limit is by chance, for one effect and for all of a study's."""

import math
from collections.abc import Sequence

from pennyweight.experiments.statistics import Spread


def t_tail(t: float, degrees: int) -> float:
    """P(|T| > |t|) for Student's T with `degrees` (1 or more) degrees of freedom.

    Source: the finite series of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even).
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees}")
    theta = math.atan(abs(t) / math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    term = total = cosine if degrees % 2 else 1.0
    for k in range(2 + degrees % 2, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if degrees == 1:
        total = 0.0
    return max(0.0, 1.0 - (2 / math.pi * (theta + sine * total) if degrees % 2 else sine * total))


def chance(values: Spread, limit: float) -> float | None:
    """How likely a mean as far from `limit` is, were `limit` the true one (two-sided t-test); None on one seed.

    Below 0.05 exactly where the 95 % interval of `values` leaves `limit` out.
    """
    if values.deviation is None:
        return None
    gap, error = values.mean - limit, values.deviation / math.sqrt(len(values.values))
    if error == 0:
        return 0.0 if gap else 1.0
    return t_tail(gap / error, len(values.values) - 1)


def surviving(chances: Sequence[float | None], level: float = 0.05) -> list[bool]:
    """Which of many tests stay decided when one false decision among all of them may be `level` likely.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    ranked = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    kept = [False] * len(chances)
    for rank, (p, place) in enumerate(ranked):
        if p > level / (len(ranked) - rank):
            break
        kept[place] = True
    return kept
