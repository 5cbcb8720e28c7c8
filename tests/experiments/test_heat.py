"""What diagnosis saw, drawn: which cell is which number, what is darker, what the sentences say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pennyweight.analysis import Look
from pennyweight.experiments import heat, report
from pennyweight.experiments.results import write

Make = Callable[..., dict[str, Any]]


def shades(cells: tuple[heat.Cells, ...]) -> dict[tuple[int, int], int]:
    """(row, column) -> shade, read back from the paths as a browser reads them."""
    return {
        (int(row), int(column)): one.shade
        for one in cells
        for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", one.path)
    }


def test_the_worst_number_is_darkest_and_a_missing_one_is_blank() -> None:
    values = [[0.0, 0.5, 1.0], [None, 0.25, 0.75]]
    assert shades(heat.shaded(values, 1)) == {(0, 0): 0, (0, 1): 4, (0, 2): 8, (1, 1): 2, (1, 2): 6}
    assert shades(heat.shaded(values, -1)) == {(0, 0): 8, (0, 1): 4, (0, 2): 0, (1, 1): 6, (1, 2): 2}


def test_what_should_be_near_a_middle_is_worse_on_both_sides() -> None:
    assert shades(heat.shaded([[-1.0, 0.0, 1.0]], 0)) == {(0, 0): 8, (0, 1): 0, (0, 2): 8}
    assert shades(heat.shaded([[0.5, 1.0, 2.0]], 0, 1.0)) == {
        (0, 0): 8,
        (0, 1): 0,
        (0, 2): 8,
    }  # half is as bad as twice


def test_endless_decibels_do_not_hide_the_others() -> None:
    found = shades(heat.shaded([[999.0, 40.0, 20.0, -999.0]], -1))
    assert found == {(0, 0): 0, (0, 1): 0, (0, 2): 8, (0, 3): 8}
    assert [heat.number(value) for value in (999.0, -999.0, 41.256, None)] == ["all", "nothing", "41.3", ""]


def test_a_map_has_a_row_for_each_layer_and_a_column_for_each_look_that_knows_the_measure() -> None:
    looks = [
        Look(50, {"a": {"x.db": 40.0}, "b": {"x.db": 30.0, "gradient.cosine": 0.99}}),
        Look(100, {"a": {"x.db": 20.0}, "b": {"x.db": 35.0}}),
    ]
    db, cosine = heat.maps(looks)
    assert (db.rows, db.columns, db.last) == (("a", "b"), 2, ("20", "35"))
    assert (db.begin, db.end) == ("step 50", "step 100")
    assert shades(db.cells) == {(0, 0): 0, (1, 0): 4, (0, 1): 8, (1, 1): 2}
    assert (cosine.rows, cosine.columns, cosine.last) == (("b",), 1, ("0.99000",))


def test_many_looks_are_thinned_and_the_last_one_stays() -> None:
    (one,) = heat.maps([Look(step, {"a": {"x.db": step / 10}}) for step in range(1, 1001)])
    assert one.columns <= heat.COLUMNS
    assert one.last == ("100",)
    assert one.end == "step 1,000"


def test_the_sentences_name_the_layer_that_breaks_and_what_looking_cost() -> None:
    looks = [
        Look(step, {"a": {"x.db": db}, "b": {"x.db": 40.0}}, seconds=1.0) for step, db in ((50, 40.0), (100, 10.0))
    ]
    told, cost = heat.seen("run", looks, {"seconds": 52.0}).said
    assert told == "Breaks at step 100: a (input: decibels left from 40 to 10)."
    assert cost == "Looking took 2.0 s, 4.0 % of the rest of the run."
    assert heat.seen("run", looks[:1], {}).said[0] == "No layer got three bits worse than it was, in 1 look."


def test_the_page_shows_the_maps_of_a_run_and_hides_all_but_the_chosen_one(tmp_path: Path, row: Make) -> None:
    run = tmp_path / "runs" / "penny8-seed0"
    run.mkdir(parents=True)
    name = "<script>alert(1)</script>"
    sharp = {"loss": 2.0, "m_sharpness": 0.1, "eigenvalue": 3.0, "by": "double backward",
             "slice_1d": [[-1, 3.0], [0, 2.0], [1, 3.5]], "slice_2d": [[2.0, 3.0], [3.0, 4.0]]}  # fmt: skip
    look = Look(50, {name: {"x.db": 40.0, "w.db": 41.0}}, {}, sharp, 0.1, 2.0)
    line = {"kind": "diagnosis", "step": 50, **look.to_line()}
    (run / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    (run / "result.json").write_text(json.dumps(row("penny8")))
    write([{**row("penny8"), "folder": "runs/penny8-seed0"}], tmp_path / "results.json")
    page = report(tmp_path).read_text()
    assert "What diagnosis saw" in page
    assert name not in page
    assert page.count('<path class="q') == 2 + 3  # one cell a measure; a plane of four losses in three shades
    assert '<option value="h1">weight: decibels left</option>' in page
    assert '.seen:has(option[value="h1"]:checked) figure.h1' in page
    assert "double backward" in page
    assert "Loss along a direction after 50 steps" in page
    assert "alpha</b>" in page
    assert "What diagnosis saw" in (tmp_path / "report.md").read_text()


def test_a_report_without_looks_says_nothing_of_them(tmp_path: Path, row: Make) -> None:
    write([row("bf16"), row("penny8")], tmp_path / "results.json")
    page = report(tmp_path).read_text()
    assert "diagnosis" not in page
    assert "--q0" not in page
