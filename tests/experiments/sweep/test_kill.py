"""Killed with SIGKILL and asked again, a sweep goes on; no number shows that it was killed, or how many ran at once."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.sweep.progress import last_step
from pennyweight.training import Checkpoint, Evaluation, Run, train


def command(run: Run, out: Path, *words: str) -> list[str]:
    """The sweep of a base run as it is typed."""
    settings = [f"{name}={getattr(run.data, name)}" for name in ("tokenizer", "context")]
    settings = [f"data.{setting}" for setting in settings]
    settings += [f"batch={run.batch}", f"checkpoint.every={run.checkpoint.every}"]
    settings += [f"evaluation.{name}={getattr(run.evaluation, name)}" for name in ("every", "tokens")]
    flags = ["--model", run.model, "--data", run.data.source, "--steps", str(run.steps), "--out", str(out)]
    return [sys.executable, "-m", "pennyweight", "sweep", *words, *flags, "--threads", "1", "--set", *settings]


def killed_amid(typed: list[str], out: Path, step: int) -> None:
    """Begins a sweep and kills it when one of its cells that run has passed a step."""
    process = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not any(last_step(folder) > step and not done(folder) for folder in out.glob("runs/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert process.stderr
    process.stderr.close()


def done(folder: Path) -> bool:
    return (folder / "result.json").exists()


def attempts(out: Path) -> dict[str, list[str]]:
    """How each attempt at each cell ended."""
    with sqlite3.connect(out / "results.sqlite") as file:
        rows = file.execute("SELECT folder, outcome FROM attempts JOIN cells ON cell = id ORDER BY attempts.rowid")
        told: dict[str, list[str]] = {}
        for folder, outcome in rows:
            told.setdefault(folder, []).append(outcome)
    file.close()
    return told


def losses(rows: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[float, list[list[float]]]]:
    return {(row["recipe"], row["seed"]): (row["val_loss"], row["curve"]) for row in rows}


def test_a_killed_sweep_goes_on_and_no_number_shows_it(tmp_path: Path, base: Run) -> None:
    run = replace(base, steps=600, checkpoint=Checkpoint(every=60), evaluation=Evaluation(every=300, tokens=64))
    typed = command(run, tmp_path / "o", "--grid", "weights=none,8", "--jobs", "2", "--json")
    killed_amid(typed, tmp_path / "o", 80)
    ended = subprocess.run(typed, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)["runs"]
    assert [row["status"] for row in rows] == ["finished"] * 2
    ends = attempts(tmp_path / "o")
    assert all(told.count("finished") == 1 and told[-1] == "finished" for told in ends.values())
    assert any(len(told) == 2 for told in ends.values())  # went on
    for row in rows:
        ledger = (tmp_path / "o" / row["folder"] / "ledger.jsonl").read_text()
        steps = [json.loads(line) for line in ledger.splitlines()]
        assert [line["step"] for line in steps if line["kind"] == "step"] == list(range(1, 601))
        assert not (tmp_path / "o" / row["folder"] / "checkpoints").exists()
    for recipe in ("bf16", "w8"):
        alone = train(replace(run, recipe=recipe), progress=False, out=tmp_path / recipe)
        assert losses(rows)[recipe, 0] == (alone.val_loss, [list(point) for point in alone.curve])


@pytest.mark.long
def test_a_grid_killed_three_times_runs_each_cell_once(tmp_path: Path, base: Run) -> None:
    run = replace(base, steps=120, checkpoint=Checkpoint(every=20), evaluation=Evaluation(every=60, tokens=64))
    grid = ["--grid", "weights=none,8,4", "activations=none,8", "--seeds", "2", "--jobs", str(os.cpu_count() or 2)]
    typed = command(run, tmp_path / "o", *grid, "--json")
    for _ in range(3):
        killed_amid(typed, tmp_path / "o", 30)
    ended = subprocess.run(typed, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)["runs"]
    assert [row["status"] for row in rows] == ["finished"] * 12
    assert all(told.count("finished") == 1 for told in attempts(tmp_path / "o").values())
    ledgers = [path.read_text() for path in (tmp_path / "o").glob("runs/*/ledger.jsonl")]
    assert len(ledgers) == 12
    assert {ledger.count('"kind": "end"') for ledger in ledgers} == {1}
    assert {ledger.count('"kind": "step"') for ledger in ledgers} == {120}
