"""Geometry: marks on round numbers, labels that do not overlap, everything inside its frame."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.experiments.charts import curves, decimals, short, smooth, spread_out, ticks
from pennyweight.experiments.standings import tables

Make = Callable[..., dict[str, Any]]


def test_marks_stand_on_round_numbers() -> None:
    assert ticks(0.03, 1.02) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert ticks(0, 400) == [0, 100, 200, 300, 400]
    assert ticks(3.4, 3.4) == [3.4]


def test_an_axis_has_as_many_decimals_as_it_needs() -> None:
    assert decimals([0.25, 0.5]) == 2
    assert decimals([1.0, 2.0]) == 0


def test_tokens_are_counted_in_thousands_and_millions() -> None:
    assert [short(number) for number in (800, 500e3, 1.5e6, 2e9)] == ["800", "500 k", "1.5 M", "2 G"]


def test_smoothing_leaves_a_constant_alone_and_keeps_the_last_point() -> None:
    points = smooth([(float(step), 2.0) for step in range(1000)])
    assert all(y == pytest.approx(2.0) for _, y in points)
    assert points[-1][0] == 999
    assert len(points) <= 240


def test_smoothing_averages_two_points_without_bias_to_the_first() -> None:
    # share 1 of 2 points keeps half: (0.5 * 4 + 2) / 1.5
    assert smooth([(1, 4.0), (2, 2.0)], share=1.0)[1][1] == pytest.approx(8 / 3)


def test_labels_keep_their_order_and_their_distance_inside_the_frame() -> None:
    placed = spread_out([50.0, 51.0, 50.5, 99.0, 100.0], room=8.0)
    assert placed[0] < placed[2] < placed[1] < placed[3] < placed[4] <= 96
    ordered = sorted(placed)
    assert all(below - above >= 8 - 1e-9 for above, below in zip(ordered, ordered[1:], strict=False))


def test_twenty_labels_still_fit() -> None:
    placed = spread_out([50.0] * 20)
    assert min(placed) >= 0
    assert max(placed) <= 100


def test_curves_start_left_end_right_and_the_difference_ends_at_the_cost(row: Make) -> None:
    rows = [row("bf16", 0, 4.0), row("w8a8", 0, 4.2)]
    valid, gap, train = curves(tables(rows)[0])
    for chart in (valid, gap, train):
        for line in chart.lines:
            places = [tuple(map(float, pair.split())) for pair in re.findall(r"[-\d.]+ [-\d.]+", line.path)]
            assert places[0][0] == 0
            assert places[-1][0] == 1000
    assert [line.name for line in valid.lines] == ["bf16", "w8a8"]
    assert [line.name for line in gap.lines] == ["w8a8"]
    assert gap.zero is not None
    last = float(gap.lines[0].path.split()[-1])
    per_percent = (gap.up[0].at - gap.up[1].at) * 10 / (float(gap.up[1].text[:-2]) - float(gap.up[0].text[:-2]))
    assert (gap.zero * 10 - last) / per_percent == pytest.approx(5.0, abs=0.02)  # 4.2 is 5 % above 4.0


def test_a_band_spans_the_seeds_and_a_single_seed_has_none(row: Make) -> None:
    assert curves(tables([row("bf16", 0, 4.0)])[0])[0].lines[0].band == ""
    assert curves(tables([row("bf16", 0, 4.0), row("bf16", 1, 4.1)])[0])[0].lines[0].band != ""


def test_a_switch_of_recipes_is_marked_where_its_step_stands(row: Make) -> None:
    text = "bf16 until 40%, then w8a8"
    valid, _, train = curves(tables([row("bf16", 0, 4.0), row(text, 0, 4.1)])[0])
    assert [(mark.shade, mark.text) for mark in valid.marks] == [(1, f"{text}: w8a8 from step 5 on")]
    assert valid.marks[0].at == pytest.approx(40)  # of steps 0 to 10
    assert train.marks[0].at == pytest.approx(100 * 3 / 9)  # of steps 1 to 10
    assert curves(tables([row("bf16", 0, 4.0)])[0])[0].marks == ()


def test_runs_that_tell_no_curve_draw_none(row: Make) -> None:
    assert curves(tables([row("bf16", curve=[], validation=None)])[0]) == []
