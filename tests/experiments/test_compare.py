"""Comparing: equal runs, resumable, honest about the ones that failed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments import belongs, compare
from pennyweight.experiments.compare import folder_name
from pennyweight.training import Data, Run

Trainer = Callable[[Run, Path, bool], dict[str, Any]]
BASE = Run(steps=10)


def results(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "results.json").read_text())


def test_every_recipe_meets_every_seed_with_the_same_run(tmp_path: Path, trained: Trainer) -> None:
    asked: list[Run] = []

    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        asked.append(run)
        return trained(run, folder, progress)

    rows = compare(["bf16", "w8a8"], BASE, seeds=2, out=tmp_path / "o", progress=False, trainer=trainer)
    assert [(str(run.recipe), run.seed) for run in asked] == [("bf16", 0), ("w8a8", 0), ("bf16", 1), ("w8a8", 1)]
    assert {(run.steps, run.data, run.model) for run in asked} == {(10, BASE.data, BASE.model)}
    assert [(row["recipe"], row["seed"]) for row in rows] == [("bf16", 0), ("bf16", 1), ("w8a8", 0), ("w8a8", 1)]
    assert results(tmp_path / "o") == json.loads(json.dumps(rows))
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "runs", "results.json", "comparison.json", "report.html", "report.md",
    }  # fmt: skip
    assert {row["folder"] for row in rows} == {
        f"runs/{name}-seed{seed}" for name in ("bf16", "w8a8") for seed in (0, 1)
    }


def test_results_are_there_after_every_run(tmp_path: Path, trained: Trainer) -> None:
    seen: list[int] = []

    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        seen.append(len(results(tmp_path)) if (tmp_path / "results.json").exists() else 0)
        return trained(run, folder, progress)

    compare(["bf16", "w8a8", "fp32"], BASE, out=tmp_path, progress=False, trainer=trainer)
    assert seen == [0, 1, 2]


def test_finished_runs_answer_again_without_training(tmp_path: Path, trained: Trainer) -> None:
    first = compare(["bf16", "w8a8"], BASE, out=tmp_path, progress=False, trainer=trained)

    def never(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        pytest.fail("trained again")

    assert [
        row["val_loss"] for row in compare(["bf16", "w8a8"], BASE, out=tmp_path, progress=False, trainer=never)
    ] == [row["val_loss"] for row in first]


def test_what_is_finished_already_is_said(tmp_path: Path, trained: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    compare(["bf16"], BASE, out=tmp_path, trainer=trained)
    compare(["bf16", "w8a8"], BASE, out=tmp_path, trainer=trained)
    assert capfd.readouterr().err.splitlines() == [
        "run 1 of 1: bf16, seed 0: starting",
        "run 1 of 2: bf16, seed 0: finished earlier, nothing is trained",
        "run 2 of 2: w8a8, seed 0: starting",
    ]


def test_recipes_can_be_added_to_a_comparison(tmp_path: Path, trained: Trainer) -> None:
    compare(["bf16"], BASE, out=tmp_path, progress=False, trainer=trained)
    rows = compare(["w8a8"], BASE, out=tmp_path, progress=False, trainer=trained)
    assert [row["recipe"] for row in rows] == ["bf16", "w8a8"]
    assert belongs(tmp_path, BASE)
    assert not belongs(tmp_path, Run(steps=11))


def test_another_run_is_refused_and_what_differs_is_said(tmp_path: Path, trained: Trainer) -> None:
    compare(["bf16"], BASE, out=tmp_path, progress=False, trainer=trained)
    before = results(tmp_path)
    with pytest.raises(FileExistsError, match="steps: 10 is not 11"):
        compare(["w8a8"], Run(steps=11), out=tmp_path, progress=False, trainer=trained)
    assert results(tmp_path) == before


def test_a_diverged_run_is_told_and_stops_nobody(tmp_path: Path, trained: Trainer) -> None:
    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        if str(run.recipe) == "w8a8":
            return {"status": "diverged", "error": "the loss is no number at step 3"}
        return trained(run, folder, progress)

    rows = compare(["bf16", "w8a8", "fp32"], BASE, out=tmp_path, progress=False, trainer=trainer)
    assert [row["status"] for row in rows] == ["finished", "diverged", "finished"]
    assert "the loss is no number at step 3" in (tmp_path / "report.html").read_text()


def test_a_refused_run_is_refused_here_too_and_nothing_is_left(tmp_path: Path) -> None:
    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        return {"refused": "FileNotFoundError", "error": "data 'x' is not there"}

    with pytest.raises(FileNotFoundError, match="data 'x' is not there"):
        compare(["bf16"], BASE, out=tmp_path / "o", progress=False, trainer=trainer)
    assert not (tmp_path / "o").exists()


def test_an_interrupted_run_interrupts_the_comparison(tmp_path: Path, trained: Trainer) -> None:
    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        return {"interrupted": True} if str(run.recipe) == "w8a8" else trained(run, folder, progress)

    with pytest.raises(KeyboardInterrupt):
        compare(["bf16", "w8a8"], BASE, out=tmp_path, progress=False, trainer=trainer)
    assert [row["recipe"] for row in results(tmp_path)] == ["bf16"]


def test_unknown_recipes_and_no_seeds_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def never(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        pytest.fail("trained")

    with pytest.raises(ValueError, match="penny8"):
        compare(["bf16", "peny8"], BASE, out=tmp_path / "o", progress=False, trainer=never)
    with pytest.raises(ValueError, match="seeds=0"):
        compare(["bf16"], BASE, seeds=0, out=tmp_path / "o", progress=False, trainer=never)
    with pytest.raises(ValueError, match="got none"):
        compare([], BASE, out=tmp_path / "o", progress=False, trainer=never)
    assert not (tmp_path / "o").exists()


def test_a_single_runs_folder_and_a_file_are_no_place_for_a_comparison(tmp_path: Path, trained: Trainer) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FileExistsError, match="single run"):
        compare(["bf16"], BASE, out=tmp_path, progress=False, trainer=trained)
    with pytest.raises(FileExistsError, match="is a file"):
        compare(["bf16"], BASE, out=tmp_path / "run.json", progress=False, trainer=trained)


@pytest.mark.parametrize("name", ["a/b", "..", "../x", "m=int8/block128", "ü" * 200, ""])
def test_run_folders_stay_inside_whatever_the_recipe_is_called(name: str) -> None:
    made = folder_name(name, 3)
    assert "/" not in made
    assert not made.startswith(".")
    assert made.endswith("-seed3")
    assert len(made) < 120
    assert folder_name(name + "!", 3) != made


def test_the_data_hash_decides_the_table_even_in_one_folder(tmp_path: Path, trained: Trainer) -> None:
    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        answer = trained(run, folder, progress)
        answer["result"]["data_hash"] = str(run.recipe)
        return answer

    compare(["bf16", "w8a8"], BASE, out=tmp_path, progress=False, trainer=trainer)
    assert "stand in 2 tables" in (tmp_path / "report.html").read_text()


def test_a_worker_refuses_in_one_sentence(tmp_path: Path) -> None:
    base = Run(data=Data(source=str(tmp_path / "absent.txt")))
    with pytest.raises(FileNotFoundError, match="absent"):
        compare(["bf16"], base, out=tmp_path / "o", progress=False)
    assert not (tmp_path / "o").exists()
