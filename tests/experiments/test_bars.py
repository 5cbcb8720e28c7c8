"""Bars in proportion, costs on one axis, everything inside its frame."""

from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.experiments.bars import categories, costs, speeds, stacks
from pennyweight.experiments.standings import tables

Make = Callable[..., dict[str, Any]]


def test_the_cost_axis_puts_zero_left_of_a_cost_and_a_runaway_beyond(row: Make) -> None:
    rows = [row("bf16"), row("w8a8", val_loss=4.02), row("penny4", val_loss=4.12), row("w2a2-control", val_loss=6.0)]
    drawn = costs(tables(rows)[0])
    assert drawn is not None
    assert [one.name for one in drawn.rows] == ["w8a8", "penny4", "w2a2-control"]
    assert [one.beyond for one in drawn.rows] == [False, False, True]
    assert 0 <= drawn.zero < drawn.rows[0].dot < drawn.rows[1].dot < 100
    # 0.5 percent is half as far from zero as 1 percent
    assert drawn.marks[2].at - drawn.zero == pytest.approx(2 * (drawn.marks[1].at - drawn.zero))


def test_one_recipe_alone_has_no_cost_axis(row: Make) -> None:
    assert costs(tables([row("bf16")])[0]) is None


def test_the_widest_bar_fills_the_frame_and_the_others_are_in_proportion(row: Make) -> None:
    half = {"weights": {"predicted": 2**20, "measured": None}, "states": {"predicted": 2**19, "measured": 2**19}}
    rows = [row("bf16", peak_memory_bytes=3 * 2**20), row("penny8", memory=half)]  # no more than its categories
    bf16, penny8 = stacks(tables(rows)[0])
    assert sum(piece.width for piece in bf16.measured) == pytest.approx(100)
    assert sum(piece.width for piece in penny8.predicted) == pytest.approx(50)
    assert [piece.name for piece in penny8.measured] == ["states"]


def test_speed_bars_are_in_proportion(row: Make) -> None:
    told = speeds(tables([row("bf16"), row("w8a8", tokens_per_second=250.0)])[0])
    assert [(piece.name, piece.width) for piece in told] == [("bf16", 100.0), ("w8a8", 25.0)]


def test_what_the_peak_held_beyond_the_categories_is_told_too(row: Make) -> None:
    (table,) = tables([row("bf16", 0), row("bf16", 1, peak_memory_bytes=80 * 2**20), row("w8a8", memory=None)])
    assert categories(table) == ["weights", "states", "everything else (temporaries, allocator)"]
    (stack, _) = stacks(table)
    assert [piece.text for piece in stack.measured] == ["1.0 MiB", "2.0 MiB", "87.0 MiB"]  # 90 at the peak, less 3
    assert stack.totals == ("3.0 MiB", "90.0 MiB")
    assert len(stack.predicted) == 2
