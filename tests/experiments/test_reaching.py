"""Time to a loss: between two evaluations in a straight line, in seconds of steps; unknown where it was not reached."""

import pytest

from pennyweight.experiments.answers import answers
from pennyweight.experiments.facts import comparison
from pennyweight.experiments.reaching import seconds_to
from pennyweight.experiments.standings import tables


def test_a_loss_between_two_evaluations_is_met_on_the_line_between_them(row):
    one = row(
        validation=[[0, 8.0], [4, 6.0], [10, 5.0]], tokens=40960, steps=10, tokens_per_second=1024.0
    )  # 4 s a step
    assert seconds_to(one, 7.0) == pytest.approx(2 * 4)
    assert seconds_to(one, 6.0) == pytest.approx(4 * 4)
    assert seconds_to(one, 5.25) == pytest.approx((4 + 4.5) * 4)
    assert seconds_to(one, 5.0) == pytest.approx(10 * 4)


@pytest.mark.parametrize("loss", [4.9, 8.0, 9.0])
def test_a_loss_never_reached_or_there_from_the_beginning_has_no_time(row, loss):
    assert seconds_to(row(validation=[[0, 8.0], [4, 6.0], [10, 5.0]]), loss) is None


@pytest.mark.parametrize("missing", ["validation", "tokens_per_second", "tokens", "steps"])
def test_a_row_that_does_not_tell_has_no_time(row, missing):
    assert seconds_to({**row(), missing: None}, 6.0) is None


def test_the_table_tells_how_long_each_recipe_took_to_two_percent_above_the_baselines_end(row):
    rows = [row("bf16", val_loss=5.0, tokens_per_second=1000.0), row("penny8", val_loss=5.0, tokens_per_second=2000.0)]
    (table,) = tables(rows)
    assert table.target == pytest.approx(5.1)
    base, ours = table.standings
    assert ours.seconds.mean == pytest.approx(base.seconds.mean / 2)
    assert ours.delay.mean == pytest.approx(-50)
    header, lines = comparison(table)
    assert header[-2] == "time to loss 5.10"
    assert lines[1][-2].endswith("−50 %, one run")
    (answer,) = answers(rows)
    assert answer["target"] == pytest.approx(5.1)
    assert answer["recipes"][1]["delay"]["mean"] == pytest.approx(-50)


def test_a_recipe_of_which_one_seed_does_not_get_there_is_given_no_time(row):
    rows = [row("bf16", seed, 5.0) for seed in (0, 1)] + [row("penny8", 0, 5.0), row("penny8", 1, 6.0)]
    (table,) = tables(rows)
    assert table.standings[0].seconds is not None
    assert table.standings[1].seconds is None
    assert comparison(table)[1][1][-2] == "–"
