"""Certainty: Student's t against printed tables, and Holm's procedure by hand."""

import math

import pytest

from pennyweight.experiments.statistics import T_POINTS, spread
from pennyweight.experiments.studies.certainty import chance, surviving, t_tail


def test_the_tail_at_every_printed_point_is_five_percent() -> None:
    for degrees, point in enumerate(T_POINTS, 1):
        assert t_tail(point, degrees) == pytest.approx(0.05, abs=5e-5)


def test_one_degree_of_freedom_is_cauchy_and_two_have_a_closed_form() -> None:
    assert t_tail(1.0, 1) == pytest.approx(0.5)
    assert t_tail(-3.0, 2) == pytest.approx(1 - 3 / math.sqrt(2 + 9))
    assert t_tail(0.0, 7) == 1.0
    with pytest.raises(ValueError, match="at least 1 degree"):
        t_tail(1.0, 0)


def test_a_chance_is_five_percent_where_the_interval_ends() -> None:
    values = spread([0.1, 0.2, 0.4])
    assert values.low is not None
    assert chance(values, values.low) == pytest.approx(0.05, abs=1e-4)
    assert chance(spread([0.1]), 0.0) is None
    assert chance(spread([0.1, 0.1]), 0.0) == 0.0


def test_holm_stops_at_the_first_that_fails() -> None:
    # of four: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, 0.05 / 2 = 0.025
    assert surviving([0.02, 0.001, 0.016, 0.03]) == [True, True, True, True]
    assert surviving([0.027, 0.001, 0.016, 0.03]) == [False, True, True, False]
    assert surviving([0.02, 0.001, 0.017, 0.03]) == [False, True, False, False]
    assert surviving([None, 0.04]) == [False, True]
    assert surviving([]) == []
