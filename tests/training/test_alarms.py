"""Alarms hear a divergence coming, and no single batch of foreign text."""

import math
import random

import pytest

from pennyweight.analysis import Blamed, Look
from pennyweight.training.alarms import of_failure, of_looks, of_loss, of_norm, runaway, said_of

CALM = [4.0, 4.2, 4.1, 3.9, 4.05] * 4


def test_three_numbers_in_a_row_far_above_their_median_are_a_runaway() -> None:
    ratio, sound = runaway([*CALM, 6.15, 8.2, 12.3], 1.25) or (0.0, 0)
    assert ratio == pytest.approx(6.15 / 4.05)
    assert sound == 20  # the last of them is the median itself


@pytest.mark.parametrize(
    "numbers",
    [
        [*CALM, 6.15, 8.2],  # two
        [*CALM, 4.0, 6.15, 8.2],
        [*CALM, 6.15, 4.0, 8.2],  # not in a row
        [*CALM, 4.9, 4.9, 4.9],  # 1.21 times
        [*CALM[:9], 6.15, 8.2, 12.3],  # no past of its own yet
        [*CALM, 9.0, *CALM, 8.2, 8.2, 8.2],  # no more than it scattered before
        [12.0 - 0.1 * step for step in range(100)],
        [],
    ],
)
def test_everything_else_is_none(numbers: list[float]) -> None:
    assert runaway(numbers, 1.25) is None


def test_only_the_window_is_the_past() -> None:
    assert runaway([100.0, *CALM, *CALM, *CALM, 8.0, 8.0, 8.0], 1.25) == (8.0 / 4.05, 61)
    assert runaway([100.0, *CALM, *CALM, 8.0, 8.0, 8.0], 1.25) is None


def test_noise_that_only_scatters_is_heard_as_seldom_as_its_ranks_say() -> None:
    draw = random.Random(0)
    heard = sum(runaway([draw.random() for _ in range(53)], 0.0) is not None for _ in range(100_000))
    expected = 100_000 / math.comb(53, 3)
    assert abs(heard - expected) <= 4 * math.sqrt(expected)  # 4 standard deviations


def test_the_loss_and_the_norm_have_their_own_ratios_and_steps() -> None:
    found = of_loss([*CALM, 8.0, 8.5, 9.0], 123)
    assert found is not None
    assert (found.step, found.sound) == (123, 120)
    assert "1.98 times their recent median or more (9 now)" in found.what
    assert of_norm([*CALM, 8.0, 8.5, 9.0], 123) is None
    found = of_norm([*CALM, 18.0, 28.5, 19.0], 123)
    assert found is not None
    assert (found.step, found.sound) == (123, 120)


def test_a_number_that_is_none_leaves_the_last_usual_loss_sound() -> None:
    found = of_failure([*CALM, 4.5, 5.0], 23, "the loss is nan")
    assert (found.step, found.sound, found.what) == (23, 20, "the loss is nan")
    assert of_failure([], 1, "the loss is nan").sound == 0


def test_a_look_is_heard_where_layers_broke_and_only_there() -> None:
    calm, bad = (
        Look(50, {"a": {"x.db": 42.0}, "b": {"x.db": 42.0}}),
        Look(100, {"a": {"x.db": 41.0}, "b": {"x.db": 9.0}}),
    )
    assert of_looks([calm], 0) is None
    assert of_looks([calm, calm], 49) is None
    found = of_looks([calm, bad], 49)
    assert found is not None
    assert (found.step, found.sound, [one.layer for one in found.blamed]) == (100, 49, ["b"])


def test_broken_layers_are_said_with_the_worst_first_and_the_others_counted() -> None:
    found = [Blamed(name, 9.0, "v.zero", 0.0, 0.667) for name in "abcde"]
    assert said_of(found) == "moment v: share that became 0 went from 0 to 0.667 in the worst of 5: a, b, c and 2 more"
