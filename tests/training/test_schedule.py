"""Learning rates by hand."""

import pytest

from pennyweight.training import Schedule
from pennyweight.training.schedule import learning_rate


def rates(schedule, steps, peak=1.0):
    return [learning_rate(schedule, step, steps, peak) for step in range(steps)]


def test_warmup_is_linear_and_reaches_the_top():
    assert rates(Schedule("constant", warmup=4), 6, peak=8.0) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_a_share_below_one_is_a_share_of_the_steps():
    assert rates(Schedule("constant", warmup=0.5), 4) == [0.5, 1.0, 1.0, 1.0]
    assert rates(Schedule("constant", warmup=0.0), 2) == [1.0, 1.0]


def test_cosine_ends_at_the_final_share():
    # After one warm-up step: (1 + cos(pi * k / 4)) / 2 for k = 1 ... 4, between 0.1 and 1.
    expected = [1.0, 0.1 + 0.9 * 0.8535533905932737, 0.55, 0.1 + 0.9 * 0.1464466094067262, 0.1]
    assert rates(Schedule("cosine", warmup=1, final=0.1), 5) == pytest.approx(expected, abs=1e-12)  # float64 rounding


def test_wsd_is_flat_and_then_falls_in_a_line():
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(Schedule("wsd", warmup=2, final=0.0, decay=0.4), 10) == pytest.approx(expected)


def test_wsd_without_decay_is_constant_and_a_decay_longer_than_what_is_left_starts_after_warmup():
    assert rates(Schedule("wsd", warmup=1, decay=0.0), 3) == [1.0, 1.0, 1.0]
    assert rates(Schedule("wsd", warmup=2, final=0.0, decay=1.0), 4) == [0.5, 1.0, 0.5, 0.0]


def test_one_step_has_a_rate():
    for shape in ("cosine", "wsd", "constant"):
        assert rates(Schedule(shape), 1) == [1.0]
