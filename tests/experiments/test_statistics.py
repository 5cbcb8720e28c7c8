"""Statistics against numbers worked out by hand and against a printed table."""

import math

import pytest

from pennyweight.experiments.statistics import paired, relative, spread, t_point, verdict


def test_three_numbers_have_the_interval_of_the_textbook() -> None:
    told = spread([1.0, 2.0, 3.0])
    assert told.mean == 2.0
    assert told.deviation == 1.0
    assert told.low == pytest.approx(2 - 4.303 / math.sqrt(3), abs=1e-9)  # t of 2 degrees of freedom is 4.303
    assert told.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-9)


@pytest.mark.parametrize(
    ("degrees", "printed"), [(1, 12.706), (4, 2.776), (30, 2.042), (31, 2.040), (40, 2.021), (60, 2.000), (120, 1.980)]
)
def test_t_points_are_those_of_a_printed_table(degrees: int, printed: float) -> None:
    assert t_point(degrees) == pytest.approx(printed, abs=1e-3)  # printed to three decimals


def test_no_degree_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        t_point(0)


def test_one_number_leaves_the_spread_unknown() -> None:
    told = spread([5.0])
    assert (told.mean, told.deviation, told.low, told.high) == (5.0, None, None, None)


@pytest.mark.parametrize("numbers", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        spread(numbers)


def test_differences_are_taken_seed_by_seed_and_lonely_seeds_left_out() -> None:
    assert paired({0: 4.5, 2: 7.0, 3: 1.0}, {0: 4.0, 1: 9.0, 2: 6.0}) == {0: 0.5, 2: 1.0}


def test_relative_differences_are_percent_of_the_same_seed() -> None:
    assert relative({0: 4.5, 1: 6.0}, {0: 4.0, 1: 8.0}) == {0: 12.5, 1: -25.0}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0.3], "within 0.5 % on one seed; the spread is unknown"),
        ([7.0], "misses 5 % on one seed; the spread is unknown"),
        ([0.30, 0.31, 0.32], "within 0.5 %"),
        ([-0.1, 0.0, 0.1], "within 0.5 %; 3 seeds cannot tell it from 0"),
        ([-0.30, -0.31, -0.32], "within 0.5 %, better than the baseline"),
        ([0.3, 0.4, 0.5], "within 1 %, on average within 0.5 %"),  # 0.4 + 0.248
        (
            [1.0, 4.0, 7.0],
            "within 5 % on average; the interval reaches 11 %; 3 seeds cannot tell it from 0",
        ),  # 4 ± 7.45
        ([1.16, 1.46], "within 5 %; 2 seeds cannot tell it from 0"),  # 1.31 ± 12.706 * 0.15
        ([1.30, 1.32], "within 5 %"),  # 1.31 ± 0.13
        ([38.0, 38.1, 38.2], "misses 5 %"),
        ([1.0, 6.0, 11.0], "misses 5 % on average, not surely; 3 seeds cannot tell it from 0"),  # 6 ± 12.4
        ([5.0, 6.0, 7.0], "misses 5 % on average, not surely"),  # 6 ± 2.48
    ],
)
def test_verdicts_say_what_the_interval_allows(numbers: list[float], words: str) -> None:
    assert verdict(spread(numbers)) == words
