"""Wording: numbers as people read them."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.experiments.standings import tables
from pennyweight.experiments.wording import (
    duration,
    folded,
    headline,
    listing,
    million,
    percent,
    ranges,
    signed,
    size,
    summary,
)

Make = Callable[..., dict[str, Any]]


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


def said_of(rows: list[dict[str, Any]]) -> str:
    (table,) = tables(rows)
    return headline(table.standings[1], table.baseline)


def test_a_headline_says_how_far_the_interval_reaches_and_how_sure_memory_and_speed_are(row: Make) -> None:
    rows = [row("bf16", seed, 4.0) for seed in (0, 1)]
    rows += [
        row("penny8", 0, 4.0464, peak_memory_bytes=69 * 2**20, tokens_per_second=900.0),
        row("penny8", 1, 4.0584, peak_memory_bytes=71 * 2**20, tokens_per_second=500.0),
    ]
    assert said_of(rows) == (  # 1.31 ± 12.706 * 0.15; 30 ± 12.7 % less memory; 30 ± 254 % slower
        "penny8 costs +1.31 % (95 % interval \N{MINUS SIGN}0.60 to +3.22, 2 seeds) of bf16's validation loss, "
        "takes 30 % ± 1 less memory at the peak and shows no sure difference in speed (\N{MINUS SIGN}30 % ± 28): "
        "within 5 %; 2 seeds cannot tell it from 0."
    )


def test_one_seed_claims_no_spread(row: Make) -> None:
    told = said_of([row("bf16"), row("w8a8", val_loss=4.03, tokens_per_second=1250.0)])
    assert told == (
        "w8a8 costs +0.75 % of bf16's validation loss, takes as much memory at the peak and was 25 % faster in one run "
        "each: within 1 % on one seed; the spread is unknown."
    )


@pytest.mark.parametrize(
    ("rate", "said"), [(800.0, "was 20 % slower in one run each"), (1000.0, "was as fast in one run each")]
)
def test_a_speed_of_one_run_is_told_as_that(row: Make, rate: float, said: str) -> None:
    assert said in said_of([row("bf16"), row("w8a8", tokens_per_second=rate)])
    two = [row("bf16", seed) for seed in (0, 1)]
    two += [row("w8a8", seed, tokens_per_second=rate) for seed in (0, 1)]
    assert "in one run" not in said_of(two)


@pytest.mark.parametrize(("end", "cautious"), [(4.0, False), (6.2, False), (6.3, True), (8.2, True)])
def test_a_model_that_has_hardly_learned_is_called_so(row: Make, end: float, cautious: bool) -> None:
    (table,) = tables([row("bf16", val_loss=end), row("w8a8", val_loss=end)])  # 8.3 before step 1
    assert ("bf16 has hardly learned" in summary(table)) is cautious


def test_a_recipe_whose_seeds_the_baseline_lacks_is_told_without_a_cost(row: Make) -> None:
    assert said_of([row("bf16", 0), row("w8a8", 1, 4.5), {"recipe": "w8a8", "seed": 0, "status": "failed"}]) == (
        "w8a8 ends at 4.5000 nats a token: no run of the baseline to compare with; 1 of its runs did not finish."
    )
