"""Rows stand only beside rows that they may be compared with, and against the baseline's run of the same seed."""

from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.experiments.standings import counted_loss, tables

Make = Callable[..., dict[str, Any]]


def test_the_larger_of_both_losses_counts() -> None:
    assert counted_loss({"val_loss": 3.0, "val_loss_plain": 3.5}) == 3.5
    assert counted_loss({"val_loss": 3.0, "val_loss_plain": 2.5}) == 3.0
    assert counted_loss({"val_loss": 3.0, "val_loss_plain": None}) == 3.0


def test_costs_are_paired_by_seed_and_count_the_larger_loss(row: Make) -> None:
    rows = [row("bf16", 0, 4.0), row("bf16", 1, 5.0), row("w8a8", 0, 4.0, val_loss_plain=4.04), row("w8a8", 1, 5.1)]
    (table,) = tables(rows)
    cost = table.standings[1].cost
    assert cost is not None
    assert cost.values == pytest.approx((1.0, 2.0))  # 0.04 of 4 and 0.1 of 5, in percent
    assert cost.mean == pytest.approx(1.5)


def test_the_baseline_is_bf16_wherever_it_stands_else_the_first(row: Make) -> None:
    (table,) = tables([row("w8a8"), row("bf16")])
    assert [one.recipe for one in table.standings] == ["bf16", "w8a8"]
    (table,) = tables([row("w8a8"), row("fp32")])
    assert table.baseline == "w8a8"


def test_runs_of_different_data_never_share_a_table(row: Make) -> None:
    rows = [row("bf16"), row("w8a8"), row("bf16", data_hash="e" * 64), row("penny8", data_hash="e" * 64)]
    first, second = tables(rows)
    assert [one.recipe for one in first.standings] == ["bf16", "w8a8"]
    assert [one.recipe for one in second.standings] == ["bf16", "penny8"]


def test_runs_of_different_lengths_never_share_a_table(row: Make) -> None:
    assert len(tables([row("bf16"), row("w8a8", tokens=2 * 40960)])) == 2


def test_a_diverged_run_stands_in_the_table_without_a_number(row: Make) -> None:
    failed = {"recipe": "w8a8", "seed": 0, "status": "diverged", "error": "NaN"}
    (table,) = tables([row("bf16"), failed])
    assert table.standings[1].failed == (failed,)
    assert table.standings[1].cost is None
    assert table.standings[1].verdict == "no finished run"


def test_only_failed_runs_still_make_a_table() -> None:
    (table,) = tables([{"recipe": "w8a8", "seed": 0, "status": "failed"}])
    assert table.standings[0].verdict == "the baseline"


def test_memory_and_speed_are_percent_of_the_same_seed(row: Make) -> None:
    rows = [row("bf16"), row("penny8", peak_memory_bytes=70 * 2**20, tokens_per_second=1500.0)]
    one = tables(rows)[0].standings[1]
    assert one.memory is not None
    assert one.speed is not None
    assert one.memory.mean == pytest.approx(-30)
    assert one.speed.mean == pytest.approx(50)


def test_runs_of_different_models_never_share_a_table(row: Make) -> None:
    one, other = ({"config": {"of": "config.json", "says": {"n_embd": size}}} for size in (32, 64))
    failed = {"recipe": "penny8", "seed": 0, "status": "failed", "data_hash": "d" * 64, "run": other}
    first, second = tables([row("bf16", run=one), row("bf16", run=other), row("w8a8", run=one), failed])
    assert [standing.recipe for standing in first.standings] == ["bf16", "w8a8"]
    assert [standing.recipe for standing in second.standings] == ["bf16", "penny8"]
