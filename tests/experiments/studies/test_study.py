"""Verdicts of effects, on intervals computed by hand."""

import pytest

from pennyweight.experiments.statistics import Spread, spread
from pennyweight.experiments.studies.study import FAILS, HOLDS, UNTOLD, Effect, judged

NEAR = spread([0.001, 0.002, 0.003])  # mean 0.002, half width 4.303 * 0.001 / sqrt(3) = 0.0025
FAR = spread([0.1, 0.11, 0.12])
WIDE = spread([-0.1, 0.0, 0.1])


@pytest.mark.parametrize(
    ("values", "limit", "side"),
    [(NEAR, 0.01, "below"), (NEAR, 0.004, None), (NEAR, -0.001, "above"), (FAR, 0.01, "above"), (WIDE, 0.01, None),
     (spread([5.0]), 0.01, None), (None, 0.01, None)],
)  # fmt: skip
def test_an_interval_has_a_side_only_where_it_lies_there_in_whole(
    values: Spread | None, limit: float, side: str | None
) -> None:
    assert Effect("x", values, "below", limit).side == side


def test_most_runs_broken_down_are_above_and_some_are_not_below() -> None:
    assert Effect("x", None, "above", 0.01, diverged=2, seeds=3).side == "above"
    assert Effect("x", NEAR, "below", 0.01, diverged=1, seeds=3).side is None
    assert Effect("x", FAR, "below", 0.01, diverged=1, seeds=3).side == "above"


def test_a_claim_holds_on_all_of_its_effects_and_fails_on_one() -> None:
    good, bad, open_ = (Effect("x", values, "below", 0.01) for values in (NEAR, FAR, WIDE))
    assert judged(good).verdict == HOLDS
    assert judged(good, bad, open_).verdict == FAILS
    assert judged(good, open_).verdict == UNTOLD
    assert judged().verdict == UNTOLD
