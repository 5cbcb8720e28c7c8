"""Blame: which layers break a run, from what was seen of them: a ranking, the worst layer first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pennyweight.analysis.look import Look

DECIBELS_PER_BIT = 6.02
LEAST = {
    "saturated": 0.01,
    "zero": 0.05,
    "cosine": 0.01,
    "stalled": 0.1,
    "v.zero": 0.001,
}  # shares below which a change says little
JUDGED = ("db", "saturated", "zero", "stalled", "cosine", "norm_ratio")
BROKEN = 3.0  # a score from which on a layer counts as broken; in a healthy run gradients reach 1.7 (LOG.md)


@dataclass(frozen=True)
class Blamed:
    """A layer, how much worse it became (in bits), by which measure, and from what to what."""

    layer: str
    score: float
    measure: str
    before: float | None
    now: float | None


def blame(looks: Sequence[Look]) -> list[Blamed]:
    """Every layer of the last look by its worst change, the worst first; nothing without a look.

    A layer's score is the largest, over its measures, of how many bits worse the measure is now than it was:
      db           (before - now) / 6.02
      saturated, zero, stalled (shares s), cosine (s = 1 - cosine)    log2((now + e) / (before + e)), e of `LEAST`
      norm_ratio   |log2(now)| - |log2(before)|
    `before` is the layer's median over the earlier looks; a layer that was never seen, or a first look, is held against
    the median of all layers in this look. Zeros among v are worse from the first one on: they are held against none.
    Scores from `BROKEN` on mean that something broke.
    """
    if not looks:
        return []
    now, earlier = looks[-1], looks[:-1]
    ranking = []
    for layer in now.measures:
        names = {name for look in (now, *earlier) for name in look.measures.get(layer, {})}
        judged = [_judged(layer, name, now, earlier) for name in names if name.partition(".")[2] in JUDGED]
        if judged:
            ranking.append(max(judged, key=lambda one: (one.score, one.measure)))
    return sorted(ranking, key=lambda one: (-one.score, one.layer))


def breaks(looks: Sequence[Look]) -> tuple[int, list[Blamed]] | None:
    """The first look's step from which something counts as broken, and the layers blamed then; None: nothing does."""
    for place in range(1, len(looks) + 1):
        broken = [one for one in blame(looks[:place]) if one.score >= BROKEN]
        if broken and place > 1 or any(one.measure == "v.zero" for one in broken):
            return looks[place - 1].step, broken
    return None


def _judged(layer: str, name: str, now: Look, earlier: Sequence[Look]) -> Blamed:
    value = now.measures[layer].get(name)
    seen = [number for look in earlier if (number := look.measures.get(layer, {}).get(name)) is not None]
    if name == "v.zero":
        seen = [0.0]
    elif not seen:
        seen = [number for one in now.measures.values() if (number := one.get(name)) is not None]
    before = median(seen) if seen else None
    return Blamed(layer, _score(name if name in LEAST else name.partition(".")[2], before, value), name, before, value)


def _score(kind: str, before: float | None, now: float | None) -> float:
    if now is None or before is None:
        return 0.0
    if kind == "db":
        return (before - now) / DECIBELS_PER_BIT
    if kind == "norm_ratio":
        return _octaves(now) - _octaves(before)
    if kind == "cosine":
        before, now = 1 - before, 1 - now
    return math.log2((max(now, 0.0) + LEAST[kind]) / (max(before, 0.0) + LEAST[kind]))


def _octaves(ratio: float) -> float:
    return abs(math.log2(ratio)) if ratio > 0 else 32.0
