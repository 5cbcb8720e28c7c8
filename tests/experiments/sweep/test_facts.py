"""The report of a sweep: a line a cell, its seeds together, with its axes; a picture of two axes."""

from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.experiments.report import page
from pennyweight.experiments.sweep.facts import comparisons, labelled, sweep_facts
from pennyweight.experiments.sweep.report import markdown
from pennyweight.training import Run

Row = dict[str, Any]


@pytest.fixture
def cell(row: Callable[..., Row]) -> Callable[..., Row]:
    def make(recipe: str, seed: int, val_loss: float, axes: dict[str, str], **fields: Any) -> Row:
        made = row(recipe, seed, val_loss, axes=axes, threads=1, with_run=False, **fields)
        return made if made["status"] == "finished" else {**made, "val_loss": None}

    return make


@pytest.fixture
def grid(cell: Callable[..., Row]) -> list[Row]:
    """w8 costs 1 % and g8 10 %, in both seeds; both together diverge."""
    rows = []
    for seed in (0, 1):
        at = 4.0 + seed
        rows += [
            cell("w8", seed, 1.01 * at, {"weights": "8", "gradients": "none"}),
            cell("bf16", seed, at, {"weights": "none", "gradients": "none"}),
            cell("g8", seed, 1.1 * at, {"weights": "none", "gradients": "8"}),
            cell("w8g8", seed, 0.0, {"weights": "8", "gradients": "8"}, status="diverged", error="the loss is <nan>"),
        ]
    return rows


def test_the_table_has_a_column_for_each_axis_and_the_baseline_on_top(grid: list[Row]) -> None:
    ((header, lines),) = comparisons(grid)
    assert header == (
        "cell", "weights", "gradients", "seeds", "validation loss", "cost against bf16", "peak memory", "tokens/s",
        "verdict",
    )  # fmt: skip
    assert [line[:4] for line in lines] == [
        ("bf16", "none", "none", "2"), ("w8", "8", "none", "2"), ("g8", "none", "8", "2"), ("w8g8", "8", "8", "0 of 2"),
    ]  # fmt: skip
    assert [line[5].split("\n")[0] for line in lines] == ["–", "+1.00 %", "+10.00 %", "–"]


def test_cells_of_one_recipe_and_other_settings_stay_apart(cell: Callable[..., Row]) -> None:
    rows = [
        cell("w8", 0, 3.0, {"weights": "8", "optimizer.lr": "1e-3"}),
        cell("bf16", 0, 4.0, {"weights": "none", "optimizer.lr": "1e-3"}),
        cell("bf16", 0, 5.0, {"weights": "none", "optimizer.lr": "3e-4"}),
    ]
    assert [one["recipe"] for one in labelled(rows)] == [
        "bf16 optimizer.lr=1e-3", "w8 optimizer.lr=1e-3", "bf16 optimizer.lr=3e-4",
    ]  # fmt: skip
    ((header, lines),) = comparisons(rows)
    assert "cost against bf16 optimizer.lr=1e-3" in header
    assert [line[5] for line in lines] == ["–", "−25.00 %", "+25.00 %"]


def test_the_map_shows_the_loss_of_two_axes_from_cool_to_hot(grid: list[Row]) -> None:
    (one,) = sweep_facts(grid, Run(), files="f").sections[0].maps
    assert (one.down, one.across, one.columns) == ("weights", "gradients", ("none", "8"))
    spots = {(name, column): spot for name, line in one.lines for column, spot in zip(one.columns, line, strict=True)}
    assert [(spot.loss, spot.cost, spot.heat) for spot in spots.values()] == [
        ("4.5450", "+1.00 %", pytest.approx(0.1)),
        ("–", "diverged", None),
        ("4.5000", "baseline", 0.0),
        ("4.9500", "+10.00 %", pytest.approx(1.0)),
    ]


def test_small_differences_stay_cool(cell: Callable[..., Row]) -> None:
    rows = [cell(f"r{a}{b}", 0, 4.0 + 0.001 * int(a + b, 2), {"x": a, "y": b}) for a in "01" for b in "01"]
    (one,) = sweep_facts(rows, Run(), files="f").sections[0].maps
    assert max(spot.heat or 0.0 for _, line in one.lines for spot in line) == pytest.approx(0.003 / 0.04)


def test_other_axes_are_held_and_too_many_pictures_are_none(cell: Callable[..., Row]) -> None:
    def rows(count: int) -> list[Row]:
        return [
            cell(f"r{a}{b}{c}", 0, 4.0, {"x": a, "y": b, "z": str(c), "one": "1"})
            for a in "01" for b in "01" for c in range(count)
        ]  # fmt: skip

    assert [one.title for one in sweep_facts(rows(3), Run(), files="f").sections[0].maps] == ["z=0", "z=1", "z=2"]
    assert sweep_facts(rows(13), Run(), files="f").sections[0].maps == ()


def test_the_report_says_what_came_of_the_grid(grid: list[Row]) -> None:
    said = sweep_facts(grid, Run(steps=10, recipe="bf16"), files="results.sqlite")
    assert said.summary == "weights (2) × gradients (2) × 2 seeds: 8 different cells, 6 finished and 2 diverged."
    assert said.sections[0].headlines == (
        "Of the others w8 costs least: +1.00 % of bf16's loss.",
        "Within 1 % on average: w8.",
        "Beyond 5 %: g8.",
    )
    assert said.command == "pennyweight sweep --grid weights=8,none gradients=none,8 --seeds 2 --threads 1 --steps 10"
    text = markdown(said)
    assert "w8g8, seed 1: diverged: the loss is &lt;nan&gt;" in text
    assert "| cell | weights | gradients |" in text
    whole = page("sweep/sweep.html", said)
    assert "the loss is &lt;nan&gt;" in whole
    assert "<nan>" not in whole
    assert 'class="sorted wide"' in whole
    assert "://" not in whole.replace("http://www.w3.org/2000/svg", "")


def test_a_changed_base_recipe_stands_in_the_command(cell: Callable[..., Row]) -> None:
    base = Run(recipe="w8a8")
    (row,) = rows = [cell("w8a8", 0, 4.0, {"batch": "16"})]
    assert sweep_facts(rows, base, files="f").command.endswith("--set recipe=w8a8")
    assert row["recipe"] == "w8a8"
