"""Evidence: which runs broke down, and differences by seed."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.analysis import Look
from pennyweight.experiments.studies.evidence import Evidence, breaks_down

Row = Callable[..., dict[str, Any]]


def curve(*losses: float) -> list[tuple[int, float]]:
    return list(enumerate(losses, 1))


def test_a_loss_that_stays_a_nat_above_its_minimum_broke_down() -> None:
    assert not breaks_down(curve(*[5.0] * 10, *[6.0] * 300))  # a nat, not more
    assert not breaks_down(curve(5.0, *[6.1] * 99, 5.5))
    assert breaks_down(curve(5.0, *[6.1] * 100, 5.5))
    assert breaks_down(curve(5.0, 5.0, 6.1))  # to the end
    assert not breaks_down(curve(8.0, 9.5, 7.0))  # it came back
    assert breaks_down([(1, 5.0), (2, None), (3, 5.0)])  # type: ignore[list-item]  # JSON of a loss that is no number
    assert breaks_down(curve(math.nan))
    assert not breaks_down([])


def test_differences_are_of_the_same_seed_and_of_runs_that_finished(row: Row) -> None:
    rows = {
        "bf16": {0: row(val_loss=4.0), 1: row(val_loss=5.0), 2: row(val_loss=6.0)},
        "w8": {0: row(val_loss=4.25), 1: row(val_loss=None, status="diverged"), 2: row(val_loss=6.75)},
    }
    evidence = Evidence(rows)
    found = evidence.difference("w8")
    assert found is not None
    assert found.values == (0.25, 0.75)
    assert evidence.diverged("w8") == [1]
    assert evidence.difference("w4") is None


def test_what_was_seen_is_the_mean_over_layers_and_looks(row: Row) -> None:
    looks = [Look(10, {"a": {"gt.zero": 0.9}}), Look(20, {"a": {"gt.zero": 0.2}, "b": {"gt.zero": 0.4, "x.db": 9.0}})]
    evidence = Evidence({"g": {3: row()}}, lambda _: looks)
    assert evidence.seen("g", "gt.zero") == {3: pytest.approx(0.6)}
    assert evidence.seen("g", "gt.zero", last=1) == {3: pytest.approx(0.3)}
    assert evidence.seen("g", "w.db") == {}


def test_sharpness_is_the_mean_logarithm_of_the_later_half(row: Row) -> None:
    looks = [
        Look(step, {}, sharpness={"eigenvalue": value}) for step, value in ((1, 1e9), (2, 1e9), (3, 1.0), (4, 100.0))
    ]
    evidence = Evidence({"w4": {0: row()}}, lambda _: [*looks, Look(5, {})])
    assert evidence.sharpness("w4", "eigenvalue") == {0: pytest.approx(math.log(10.0))}
    assert evidence.sharpness("w4", "m_sharpness") == {}
