"""A search in real processes: halved at the rungs, and killed with SIGKILL and asked again."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pennyweight.experiments.search import conduct, search
from pennyweight.experiments.search.study import Study
from pennyweight.training import Run, load_run, train


def command(run: Run, out: Path, *words: str) -> list[str]:
    """The search of a base run as it is typed."""
    settings = [f"data.{name}={getattr(run.data, name)}" for name in ("tokenizer", "context")]
    settings += [f"batch={run.batch}", f"evaluation.tokens={run.evaluation.tokens}"]
    flags = ["--model", run.model, "--data", run.data.source, "--steps", str(run.steps), "--out", str(out)]
    return [sys.executable, "-m", "pennyweight", "search", *words, *flags, "--threads", "1", "--set", *settings]


def ended(out: Path) -> list[str]:
    """The runs that are finished."""
    return sorted(path.parent.name for path in out.glob("runs/*/result.json"))


@pytest.mark.long
def test_a_search_killed_three_times_repeats_no_run_and_replays(tmp_path: Path, base: Run) -> None:
    run, out = replace(base, steps=400), tmp_path / "o"
    typed = command(run, out, "--loss-budget", "0.02", "--trials", "4", "--seeds", "2", "--jobs", "2", "--json")
    written: dict[str, int] = {}
    for wanted in (1, 2, 4):
        process = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while len(ended(out)) < wanted:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert process.stderr
        process.stderr.close()
        written |= {name: (out / "runs" / name / "result.json").stat().st_mtime_ns for name in ended(out)}
    done = subprocess.run(typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {name: (out / "runs" / name / "result.json").stat().st_mtime_ns for name in written} == written
    for ledger in (out / "runs").glob("*/ledger.jsonl"):
        steps = [line["step"] for line in map(json.loads, ledger.read_text().splitlines()) if line["kind"] == "step"]
        assert steps == sorted(set(steps))
    found = json.loads(done.stdout)
    trained = [trial["name"] for trial in found["trials"] if trial["trained"]]
    assert len(trained) == len(set(trained)) <= 4
    answer = found["answer"]
    kept = json.loads((out / "runs" / f"{answer['name']}-seed1" / "result.json").read_text())
    again = train(load_run(out / "found" / "run.json"), tmp_path / "again", progress=False)
    assert again.val_loss == kept["val_loss"]
    assert [list(point) for point in again.curve] == kept["curve"]


@pytest.mark.long
def test_a_trial_that_falls_behind_at_a_rung_is_stopped_there(
    tmp_path: Path, base: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "names", lambda: ["bf16"])  # what is named is not what is asked here
    run, out = replace(base, steps=800), tmp_path / "o"
    search(run, loss_budget=0.000001, trials=6, seeds=1, jobs=1, threads=1, out=out, progress=False)
    study = Study(out / "search.sqlite")
    halved = [trial for trial in study.trials() if str(trial.notes.get("why", "")).startswith("halved")]
    study.close()
    assert halved
    for trial in halved:
        rung = int(trial.notes["why"].split()[-1])
        assert rung in (100, 200, 400)
        assert max(trial.reports) == rung
        assert trial.state == "pruned"
        assert not list(out.glob(f"runs/{trial.candidate.name}-seed0/result.json"))
