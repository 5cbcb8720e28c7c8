"""Grids: every combination once, built whole before anything is trained."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from pennyweight.experiments.sweep.axes import read_axes
from pennyweight.experiments.sweep.grid import Cell, CellsNotBuilt, build, label
from pennyweight.training import Checkpoint, Run


def cells(base: Run, *grid: str, seeds: int = 1) -> list[Cell]:
    return build(base, read_axes(grid, base), seeds=seeds)


def test_the_cells_are_the_product_of_the_axes_with_every_seed(base: Run) -> None:
    made = cells(base, "weights=none,8", "gradients=none,8", seeds=2)
    assert [(str(cell.run.recipe), cell.run.seed) for cell in made] == [
        (name, seed) for seed in (0, 1) for name in ("bf16", "g8", "w8", "w8g8")
    ]
    assert len({cell.id for cell in made} | {cell.folder for cell in made}) == 16
    assert dict(made[3].axes) == {"weights": "8", "gradients": "8"}


def test_equal_cells_are_one(base: Run) -> None:
    made = cells(base, "weights=none,8", "granularity=row,tensor", "rounding=nearest,stochastic", seeds=2)
    assert [str(cell.run.recipe) for cell in made] == ["bf16", "w8", "w8s", "w8t", "w8ts"] * 2
    assert len(cells(base, "recipe=w8a8,penny8", "activations=8")) == 2


def test_settings_are_axes_too(base: Run) -> None:
    made = cells(base, "recipe=bf16,w8", "optimizer.lr=1e-3,3e-4", "steps=4,8")
    assert {(cell.run.optimizer.lr, cell.run.steps) for cell in made} == {(a, b) for a in (1e-3, 3e-4) for b in (4, 8)}
    assert made[-1].label == "w8 optimizer.lr=3e-4 steps=8"
    assert label("w8+m=int8", [("weights", "8"), ("recipe.m", "int8"), ("batch", "3")]) == "w8+m=int8 batch=3"


def test_a_cell_is_known_by_its_run_in_every_process(base: Run) -> None:
    code = (
        "import json, sys; from pennyweight.experiments.sweep.grid import Cell; from pennyweight.training import Run; "
        "print(Cell((), Run.from_dict(json.loads(sys.argv[1]))).id)"
    )
    (cell,) = cells(base, "weights=8")
    done = subprocess.run([sys.executable, "-c", code, json.dumps(cell.run.to_dict())], capture_output=True, text=True)
    assert done.stdout.strip() == cell.id, done.stderr
    assert Cell((), replace(cell.run, seed=1)).id != cell.id


def test_a_cell_saves_ten_times_unless_it_says_otherwise(base: Run) -> None:
    assert cells(replace(base, steps=25), "weights=8")[0].run.checkpoint == Checkpoint(every=3)
    assert cells(base, "checkpoint.every=7")[0].run.checkpoint == Checkpoint(every=7)


def test_all_cells_that_cannot_be_built_are_told_each_with_its_reason(base: Run) -> None:
    with pytest.raises(CellsNotBuilt) as caught:
        cells(base, "saved=none,8", "compile=false,true", "batch=0,2")
    assert [reason.partition(" cannot be built: ")[0] for reason in caught.value.reasons] == [
        "saved=none compile=false batch=0",
        "saved=none compile=true batch=0",
        "saved=8 compile=false batch=0",
        "saved=8 compile=true batch=0",
        "saved=8 compile=true batch=2",
    ]
    assert "Run.batch" in caught.value.reasons[0]
    assert "use compile=false" in caught.value.reasons[4]


def test_a_model_that_is_not_there_is_told_before_anything_starts(base: Run) -> None:
    with pytest.raises(CellsNotBuilt, match="did you mean 'tiny'"):
        cells(base, "model=tinny")


def test_how_something_is_written_that_nothing_writes_is_refused(base: Run) -> None:
    with pytest.raises(ValueError, match=r"axis activations\.granularity says how activations are written, but no"):
        cells(base, "weights=8", "activations.granularity=row,tensor")
    with pytest.raises(ValueError, match="seeds=0"):
        cells(base, "weights=8", seeds=0)
