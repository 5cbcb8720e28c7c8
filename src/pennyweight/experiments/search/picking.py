"""Picking: which of the measured recipes is the cheapest within the budget, and which none is better than. Pure rules.

Costs are shares of all-bf16's cost, differences are in percent of bf16's validation loss; less is better in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One recipe: what it costs, and what it loses."""

    name: str
    cost: float
    difference: float


def excess(difference: float, limit: float) -> float:
    """How far a difference is over the limit, both in percent; within is 0, however much: rungs compare it."""
    return max(0.0, difference - limit)


def score(cost: float, difference: float, limit: float) -> float:
    """What a finished trial is worth, less is better: within the limit its cost, up to 1; beyond, 1 and more.

    Every recipe within the limit stands before every one beyond it.
    """
    return min(cost, 1.0) if difference <= limit else 1.0 + (difference - limit) / limit


def within(points: Sequence[Point], limit: float) -> list[Point]:
    """Those within the limit, the cheapest first; of equal cost the one that loses less."""
    return sorted((one for one in points if one.difference <= limit), key=lambda one: (one.cost, one.difference))


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in one of cost and difference without losing in the other, the cheapest first.

    Equal points stand once.
    """
    found: list[Point] = []
    for one in sorted(points, key=lambda one: (one.cost, one.difference)):
        if not found or one.difference < found[-1].difference:
            found.append(one)
    return found
