"""Wording: numbers as people read them."""

import math

import pytest

from pennyweight.experiments.wording import duration, folded, listing, million, percent, ranges, signed, size


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.314, "+0.31"), (-0.316, "\N{MINUS SIGN}0.32"), (0.001, "0.00"), (-0.001, "0.00"), (None, "–"), (math.nan, "–")],
)
def test_a_difference_shows_its_sign_unless_it_shows_zero(value: float | None, said: str) -> None:
    assert signed(value, 2) == said


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(12, "12 B"), (2048, "2.0 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**29, "2.50 GiB"), (None, "–")],
)
def test_bytes_are_said_in_the_unit_that_fits(num_bytes: float | None, said: str) -> None:
    assert size(num_bytes) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(4.25, "4.2 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (7500, "2 h 05 min"), (None, "–")]
)
def test_times_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_layers_that_differ_in_one_number_are_one_and_none_is_lost() -> None:
    names = ["h.0.fc", "head", "h.1.fc", "h.2.fc", "h.4.fc", "h.0.attn.q", "wte", "h.12.x.3.y", "h.12.x.4.y"]
    assert folded(names) == ["h.{0-2,4}.fc", "head", "h.0.attn.q", "wte", "h.12.x.3.y", "h.12.x.4.y"]


def test_ranges_join_neighbours() -> None:
    assert ranges([3, 1, 2, 7, 9, 8, 12]) == "1-3,7-9,12"


def test_counts_and_percents() -> None:
    assert (million(3_240_000), million(512), percent(None), percent(-1.5)) == (
        "3.2 M",
        "512",
        "–",
        "\N{MINUS SIGN}1.50 %",
    )
