"""The picking rules against brute force."""

import random

import pytest

from pennyweight.experiments.search.picking import Point, excess, front, score, within


def beats(a: Point, b: Point) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    pair, other = (a.cost, a.difference), (b.cost, b.difference)
    return all(x <= y for x, y in zip(pair, other, strict=True)) and pair != other


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_beats(seed: int) -> None:
    draw = random.Random(seed)
    points = [Point(str(place), draw.randint(0, 6) / 6, draw.randint(-3, 6)) for place in range(draw.randint(1, 15))]
    expected = {(one.cost, one.difference) for one in points if not any(beats(other, one) for other in points)}
    found = front(points)
    assert [(one.cost, one.difference) for one in found] == sorted(expected)
    assert set(found) <= set(points)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_within_the_limit_comes_first(seed: int) -> None:
    draw = random.Random(seed)
    points = [Point(str(place), draw.randint(0, 5) / 5, draw.randint(-2, 4)) for place in range(12)]
    found = within(points, 1.0)
    assert {one.name for one in found} == {one.name for one in points if one.difference <= 1.0}
    for before, after in zip(found, found[1:], strict=False):
        assert before.cost < after.cost or (before.cost == after.cost and before.difference <= after.difference)
    assert within(points, -9.0) == []


def test_every_recipe_within_the_budget_is_worth_more_than_every_one_beyond() -> None:
    inside = [score(cost, loss, 1.0) for cost in (0.1, 0.5, 1.0, 1.7) for loss in (-5.0, 0.0, 1.0)]
    beyond = [score(cost, loss, 1.0) for cost in (0.01, 0.5, 2.0) for loss in (1.01, 3.0)]
    assert max(inside) < min(beyond)
    assert score(0.25, 0.9, 1.0) == 0.25
    assert score(0.25, 3.0, 1.0) == 3.0


def test_what_is_within_the_budget_is_equal_at_a_rung() -> None:
    assert [excess(loss, 1.0) for loss in (-3.0, 0.5, 1.0, 1.5)] == [0.0, 0.0, 0.0, 0.5]
