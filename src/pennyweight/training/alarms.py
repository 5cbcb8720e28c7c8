"""Alarms: what recent numbers say of a divergence that is coming. Pure functions; None: nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pennyweight.analysis import MEASURES, Blamed, Look
from pennyweight.analysis.blame import broken

WINDOW = 50  # numbers that recent ones are held against
RECENT = 3  # numbers in a row that must be beyond: one batch of foreign text is no divergence
FEWEST = 10  # numbers before which nothing is said: there is no own past yet
# In healthy runs of 2,000 steps of 512 tokens, three losses in a row were at most 1.13 times the median before them,
# and three norms 1.5 times; one alone 1.28 and 6.5 times (LOG.md).
LOSS_RATIO = 1.25
NORM_RATIO = 4.0
NAMED = 3  # layers that a sentence names


@dataclass(frozen=True)
class Alarm:
    """What was seen after how many steps, how a person says it, and after how many steps all was well for certain."""

    step: int
    what: str
    sound: int
    blamed: tuple[Blamed, ...] = ()  # the layers that broke, the worst first, where it is they that were seen


def runaway(numbers: Sequence[float], ratio: float) -> tuple[float, int] | None:
    """By how many times the last RECENT numbers exceed the median of the WINDOW before them, and how many were sound.

    Only where each of them is `ratio` times that median or more, and larger than all the WINDOW holds: of numbers that
    only scatter, the last 3 of 53 are the 3 largest once in 23,426 times, whatever their spread. Sound are the numbers
    up to the last one in the window that is no larger than its median. While a loss falls, its median lags behind
    above it: at the beginning of a training this sees less, and diagnosis more.
    """
    before, recent = numbers[:-RECENT][-WINDOW:], numbers[-RECENT:]
    if len(before) < FEWEST:
        return None
    middle, least = median(before), min(recent)
    if not (least > max(before) and least >= ratio * middle):
        return None
    calm = max(place for place, number in enumerate(before, 1) if number <= middle)
    return least / middle, len(numbers) - RECENT - len(before) + calm


def of_loss(losses: Sequence[float], step: int) -> Alarm | None:
    """The alarm of training losses, one a step, the last after `step`: three in a row far above their recent median."""
    found = runaway(losses, LOSS_RATIO)
    if found is None:
        return None
    ratio, sound = found
    what = f"the last {RECENT} losses are {ratio:.3g} times their recent median or more ({losses[-1]:.4g} now)"
    return Alarm(step, what, step - len(losses) + sound)


def of_norm(norms: Sequence[float], step: int) -> Alarm | None:
    """The alarm of gradient norms before clipping, one a step, the last of step number `step`."""
    found = runaway(norms, NORM_RATIO)
    if found is None:
        return None
    ratio, sound = found
    what = f"the last {RECENT} gradient norms are {ratio:.3g} times their recent median or more ({norms[-1]:.4g} now)"
    return Alarm(step, what, step - len(norms) + sound)


def of_looks(looks: Sequence[Look], sound: int) -> Alarm | None:
    """The alarm of a diagnosis whose last look found broken layers (`analysis.blame.broken`).

    sound: the steps before the look that was the last to find nothing.
    """
    found = broken(looks)
    return Alarm(looks[-1].step, said_of(found), sound, tuple(found)) if found else None


def of_failure(losses: Sequence[float], step: int, what: str) -> Alarm:
    """The alarm of a number that is not finite, in step number `step`, after the losses of all steps before.

    Sound was the last loss of the window that is no larger than its median.
    """
    before = losses[-WINDOW:]
    calm = max((place for place, loss in enumerate(before, 1) if loss <= median(before)), default=0)
    return Alarm(step, what, len(losses) - len(before) + calm)


def said_of(found: Sequence[Blamed]) -> str:
    """Broken layers in words: how many by which measure, the worst ones by name."""
    worst = found[0]
    same = [one.layer for one in found if one.measure == worst.measure]
    more = f" and {len(same) - NAMED} more" if len(same) > NAMED else ""
    change = f"from {_short(worst.before)} to {_short(worst.now)} in the worst of {len(same)}"
    return f"{MEASURES[worst.measure][0]} went {change}: {', '.join(same[:NAMED])}{more}"


def _short(number: float | None) -> str:
    return "nothing" if number is None else f"{number:.3g}"
