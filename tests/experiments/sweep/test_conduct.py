"""Sweeping: built whole, each cell once, resumable, honest about the cells that failed."""

import fcntl
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments import CellsNotBuilt, compare, sweep
from pennyweight.experiments.sweep import belongs, conduct, folder, is_sweep, rebuilt
from pennyweight.experiments.sweep.store import Store
from pennyweight.training import DiskFull, Run, resolved

from .conftest import Told


def asked(engine: Told) -> list[tuple[str, int]]:
    return [(str(run.recipe), run.seed) for run in engine.asked]


def told(out: Path, question: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(out / "results.sqlite") as file:
        rows = file.execute(question).fetchall()
    file.close()
    return rows


def test_every_cell_is_trained_once_and_stands_everywhere(tmp_path: Path, base: Run, engine: Told) -> None:
    rows = sweep(["weights=none,8", "gradients=none,8"], base, seeds=2, out=tmp_path / "o", jobs=3, progress=False)
    names = [(name, seed) for seed in (0, 1) for name in ("bf16", "g8", "w8", "w8g8")]
    assert asked(engine) == names
    assert engine.room == 3
    assert [(row["recipe"], row["seed"], row["status"], row["attempts"]) for row in rows] == [
        (name, seed, "finished", 1) for name, seed in names
    ]
    assert json.loads((tmp_path / "o/results.json").read_text()) == json.loads(json.dumps(rows))
    assert told(tmp_path / "o", "SELECT weights, gradients, seed, val_loss FROM results WHERE recipe = 'w8'") == [
        ("8", "none", 0, 4.02), ("8", "none", 1, 4.02),
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "runs", "results.json", "results.sqlite", "report.html", "report.md", ".lock",
    }  # fmt: skip
    assert all((tmp_path / "o" / row["folder"] / "result.json").is_file() for row in rows)


def test_finished_cells_answer_again_and_another_grid_adds_its_own(tmp_path: Path, base: Run, engine: Told) -> None:
    sweep(["weights=none,8"], base, out=tmp_path, progress=False)
    engine.asked.clear()
    rows = sweep(["weights=none,8"], base, out=tmp_path, progress=False)
    assert (asked(engine), [row["attempts"] for row in rows]) == ([], [1, 1])
    rows = sweep(["recipe=w8,w8a8"], base, seeds=2, out=tmp_path, progress=False)
    assert asked(engine) == [("w8a8", 0), ("w8", 1), ("w8a8", 1)]
    assert len(rows) == 5


def test_a_sweep_of_another_run_is_refused_and_what_differs_is_said(tmp_path: Path, base: Run, engine: Told) -> None:
    sweep(["weights=8"], base, out=tmp_path, threads=1, progress=False)
    with pytest.raises(FileExistsError, match="already holds a sweep of another run.*batch: 2 is not 3"):
        sweep(["weights=8"], replace(base, batch=3), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="compute with 1 threads each, got threads=2"):
        sweep(["weights=8"], base, out=tmp_path, threads=2, progress=False)
    with pytest.raises(FileExistsError, match="holds a sweep"):
        compare(["bf16"], base, out=tmp_path, progress=False)
    assert is_sweep(tmp_path)
    assert belongs(tmp_path, resolved(base))
    assert not belongs(tmp_path, resolved(replace(base, batch=3)))


def test_other_peoples_folders_are_left_alone(tmp_path: Path, base: Run, engine: Told) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared/results.json").write_text("[]")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/results.sqlite").write_text("no database " * 200)
    for name, said in (("run", "single run"), ("compared", "a comparison")):
        with pytest.raises(FileExistsError, match=said):
            sweep(["weights=8"], base, out=tmp_path / name, progress=False)
    with pytest.raises(ValueError, match="does not hold the results of a sweep"):
        sweep(["weights=8"], base, out=tmp_path / "foreign", progress=False)
    assert engine.asked == []


def test_nothing_starts_where_a_cell_cannot_be_built(tmp_path: Path, base: Run, engine: Told) -> None:
    with pytest.raises(CellsNotBuilt) as caught:
        sweep(["batch=2,0,100000"], base, out=tmp_path / "o", progress=False)
    assert len(caught.value.reasons) == 1
    with pytest.raises(CellsNotBuilt, match=r"bf16 batch=100000 cannot be built: a step of this run reads 100,000"):
        sweep(["batch=2,100000"], base, out=tmp_path / "o", progress=False)
    for words, said in (
        ({"jobs": 0}, "jobs=0"), ({"threads": 0}, "threads=0"), ({"on": "rays"}, "did you mean 'ray'"),
        ({"address": "auto"}, "add --on ray"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            sweep(["weights=8"], base, out=tmp_path / "o", progress=False, **words)
    assert not (tmp_path / "o").exists()
    assert engine.asked == []


def test_failed_and_diverged_cells_are_kept_with_their_reason(
    tmp_path: Path, base: Run, engine: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = engine.answers
    bad = {
        "w8": {"status": "diverged", "error": "at step 3 the loss is nan"},
        "g8": {"status": "failed", "error": "the process of the run ended with signal SIGKILL"},
        "w8g8": {"refused": "ValueError", "error": "this machine has no memory for it"},
    }
    engine.answers = lambda run, folder, progress: bad.get(str(run.recipe)) or trained(run, folder, progress)
    rows = sweep(["weights=none,8", "gradients=none,8"], base, out=tmp_path)
    assert [(row["status"], row.get("error")) for row in rows] == [
        ("finished", None), ("failed", bad["g8"]["error"]), ("diverged", bad["w8"]["error"]),
        ("failed", bad["w8g8"]["error"]),
    ]  # fmt: skip
    assert "w8, seed 0: diverged: at step 3 the loss is nan\n" in capfd.readouterr().err
    assert all(one["error"] in (tmp_path / "report.html").read_text() for one in bad.values())
    engine.asked.clear()
    sweep(["weights=none,8", "gradients=none,8"], base, out=tmp_path, progress=False)
    assert asked(engine) == []
    engine.answers = trained
    rows = sweep(["weights=none,8", "gradients=none,8"], base, out=tmp_path, retry=True, progress=False)
    assert asked(engine) == [("g8", 0), ("w8g8", 0)]
    assert [(row["status"], row["attempts"]) for row in rows] == [
        ("finished", 1), ("finished", 2), ("diverged", 1), ("finished", 2),
    ]  # fmt: skip


def test_an_interrupted_cell_waits_and_the_others_stand(tmp_path: Path, base: Run, engine: Told) -> None:
    trained = engine.answers
    engine.answers = lambda run, folder, progress: (
        {"interrupted": True} if str(run.recipe) == "w8a8" else trained(run, folder, progress)
    )
    with pytest.raises(KeyboardInterrupt):
        sweep(["recipe=bf16,w8a8,w8"], base, out=tmp_path, jobs=2, progress=False)
    assert told(tmp_path, "SELECT status FROM results") == [("finished",), ("waiting",), ("waiting",)]
    assert told(tmp_path, "SELECT outcome FROM attempts") == [("finished",), ("interrupted",), ("interrupted",)]
    engine.answers = trained
    rows = sweep(["recipe=bf16,w8a8,w8"], base, out=tmp_path, jobs=2, progress=False)
    assert [row["attempts"] for row in rows] == [1, 2, 2]


def test_a_full_disk_ends_the_sweep_in_one_sentence_and_loses_nothing(tmp_path: Path, base: Run, engine: Told) -> None:
    trained = engine.answers
    engine.answers = lambda run, folder, progress: (
        {"status": "failed", "error": "No space left on device", "disk_full": True}
        if str(run.recipe) == "w8"
        else trained(run, folder, progress)
    )
    with pytest.raises(DiskFull, match="No space left on device"):
        sweep(["weights=none,8,4"], base, out=tmp_path, jobs=1, progress=False)
    assert told(tmp_path, "SELECT status FROM results") == [("finished",), ("waiting",), ("waiting",)]
    engine.answers = trained
    rows = sweep(["weights=none,8,4"], base, out=tmp_path, jobs=1, progress=False)
    assert [row["status"] for row in rows] == ["finished"] * 3


def test_what_was_running_when_a_sweep_was_killed_is_settled(tmp_path: Path, base: Run, engine: Told) -> None:
    sweep(["weights=none,8,4"], base, out=tmp_path, progress=False)
    engine.asked.clear()
    with sqlite3.connect(tmp_path / "results.sqlite") as file:  # killed after two cells began and one had ended
        file.execute("UPDATE cells SET status = 'running', val_loss = NULL, result = NULL WHERE recipe != 'bf16'")
        file.execute("UPDATE attempts SET ended = NULL, outcome = NULL WHERE rowid > 1")
        (name,) = file.execute("SELECT folder FROM cells WHERE recipe = 'w4'").fetchone()
    file.close()
    (tmp_path / "runs" / name / "result.json").unlink()
    (tmp_path / "runs" / name / "run.json").unlink()
    (tmp_path / "runs" / name).rmdir()
    rows = sweep(["weights=none,8,4"], base, out=tmp_path, progress=False)
    assert asked(engine) == [("w4", 0)]
    assert [(row["status"], row["attempts"]) for row in rows] == [("finished", 1), ("finished", 1), ("finished", 2)]
    assert told(tmp_path, "SELECT outcome FROM attempts") == [
        ("finished",), ("finished",), ("killed",), ("finished",),
    ]  # fmt: skip


def test_a_cell_that_still_saves_itself_is_waited_for(
    tmp_path: Path, base: Run, engine: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pennyweight.training.folder.GONE_SECONDS", 0.3)
    sweep(["weights=8"], base, out=tmp_path, progress=False)
    store = Store(tmp_path / "results.sqlite")
    (cell,) = store.of_status("finished")
    store.start(cell)
    lock = tmp_path / "runs" / store.cell(cell)[1] / ".lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another process trains in"):
            folder.settle(store, tmp_path)
    folder.settle(store, tmp_path)
    assert store.of_status("finished") == [cell]
    store.close()


def test_the_second_of_two_sweeps_on_one_folder_refuses_until_the_first_is_gone(
    tmp_path: Path, base: Run, engine: Told
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pennyweight.training.folder import claimed\n"
        "with claimed(Path(sys.argv[1]), 'sweep runs'):\n    print('claimed', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout
        try:
            assert first.stdout.readline() == b"claimed\n"
            with pytest.raises(FileExistsError, match="another sweep runs in"):
                sweep(["weights=8"], base, out=tmp_path, progress=False)
        finally:
            first.kill()
    assert len(sweep(["weights=8"], base, out=tmp_path, progress=False)) == 1


def test_a_finished_sweep_answers_without_its_text_and_its_report_is_written_again(
    tmp_path: Path, base: Run, engine: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep(["weights=none,8"], base, out=tmp_path, progress=False)
    monkeypatch.setattr(conduct, "prepare", lambda *_, **__: pytest.fail("the text was read"))
    assert sweep(["weights=none,8"], base, out=tmp_path, progress=False) == first
    page = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert rebuilt(tmp_path).read_text() == page
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/results.sqlite").touch()  # killed before its first change
    with pytest.raises(FileNotFoundError, match="stopped before it began"):
        rebuilt(tmp_path / "empty")
