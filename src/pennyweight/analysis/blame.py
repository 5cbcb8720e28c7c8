"""Blame: which layers break a run, from what was seen of them: a ranking, the worst layer first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from pennyweight.analysis.look import Look

DECIBELS_PER_BIT = 6.02
LEAST = {
    "saturated": 0.01,
    "zero": 0.05,
    "cosine": 0.05,
    "stalled": 0.1,
    "v.zero": 0.001,
}  # shares below which a change says little
JUDGED = ("db", "saturated", "zero", "stalled", "cosine", "norm_ratio")
BROKEN = 3.0  # a score from which on a layer counts as broken; in healthy runs of 2,000 steps the worst is 1.7 (LOG.md)
MEMORY = 16  # looks that a layer is held against: what became of it slowly, over a whole training, is no break


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
    `before` is the layer's median over the MEMORY looks before, of those at the same recipe; what was never seen of the
    layer, as in a first look, is held against the median of all layers in this look. Zeros among v are worse from the
    first one on: they are held against none. Scores from `BROKEN` on mean that something broke (see `broken`).
    """
    return _ranked(one for one, _ in _changes(looks))


def broken(looks: Sequence[Look]) -> list[Blamed]:
    """The layers of the last look that broke, the worst first: some measure of theirs is BROKEN bits worse than it was.

    Only a layer's own past counts, and zeros of v: layers differ from each other in any healthy model.
    """
    return [one for one in _ranked(one for one, own in _changes(looks) if own) if one.score >= BROKEN]


def breaks(looks: Sequence[Look]) -> tuple[int, list[Blamed]] | None:
    """The first look's step from which something counts as broken, and the layers blamed then; None: nothing does."""
    for place in range(1, len(looks) + 1):
        if found := broken(looks[:place]):
            return looks[place - 1].step, found
    return None


def _ranked(changes: Iterator[Blamed]) -> list[Blamed]:
    """The worst change of each layer, the worst layer first."""
    worst: dict[str, Blamed] = {}
    for one in changes:
        worst[one.layer] = max(worst.get(one.layer, one), one, key=lambda two: (two.score, two.measure))
    return sorted(worst.values(), key=lambda one: (-one.score, one.layer))


def _changes(looks: Sequence[Look]) -> Iterator[tuple[Blamed, bool]]:
    """Every judged measure of every layer in the last look, and whether it is held against the layer's own past."""
    if not looks:
        return
    now = looks[-1]
    earlier = [look for look in looks[:-1] if look.recipe == now.recipe][-MEMORY:]
    for layer in now.measures:
        names = {name for look in (now, *earlier) for name in look.measures.get(layer, {})}
        yield from (_judged(layer, name, now, earlier) for name in names if name.partition(".")[2] in JUDGED)


def _judged(layer: str, name: str, now: Look, earlier: Sequence[Look]) -> tuple[Blamed, bool]:
    value = now.measures[layer].get(name)
    seen = [number for look in earlier if (number := look.measures.get(layer, {}).get(name)) is not None]
    if name == "v.zero":
        seen = [0.0]
    own = bool(seen)
    if not own:
        seen = [number for one in now.measures.values() if (number := one.get(name)) is not None]
    before = median(seen) if seen else None
    score = _score(name if name in LEAST else name.partition(".")[2], before, value)
    return Blamed(layer, score, name, before, value), own


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
