"""A run that is killed and resumed is, bit for bit, the run that was never stopped."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pennyweight.training import Checkpoint, Diagnosis, Evaluation, Guard, Run, read_ledger

TIMES_AND_MEMORY = {"tokens_per_second", "resident_bytes", "seconds", "sharpness_seconds"}
CLOCKS = {"seconds", "step_seconds", "diagnosis_seconds", "peak_memory_bytes"}
QUICK = {
    "before the first checkpoint": [{"at": "step", "n": 2}],
    "in the first checkpoint and in the second": [{"at": "tensors", "n": 2}, {"at": "json", "n": 5}],
    "after the rename, before the ledger": [{"at": "noted", "n": 2}],
}
LONG = {
    "between two steps": [{"at": "step", "n": 5}],
    "in the middle of a line": [{"at": "line", "n": 5}],
    "after the last rename, before what is too old is deleted": [{"at": "prune", "n": 3}],
    "before the rename": [{"at": "folder", "n": 5}],
    "four times": [{"at": "step", "n": 2}, {"at": "tensors", "n": 1}, {"at": "step", "n": 5}, {"at": "json", "n": 2}],
}
DEATHS = [
    *(pytest.param(deaths, id=name) for name, deaths in QUICK.items()),
    *(pytest.param(deaths, id=name, marks=pytest.mark.long) for name, deaths in LONG.items()),
]


@pytest.fixture(scope="module")
def mortal(nursery):
    """Asks the forking process to train: mortal(run, folder, {...}) -> whether the child was killed."""
    environment = {**os.environ, "PENNYWEIGHT_CACHE": str(nursery / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).parent / "mortal.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(run: Run, folder: Path, death: dict | None = None) -> bool:
            process.stdin.write(json.dumps({"run": run.to_dict(), "folder": str(folder), **(death or {})}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["killed"] or answer["status"] == 0
            return answer["killed"]

        yield ask
        process.stdin.close()


@pytest.fixture
def long_run(small):
    """Four bits, stochastic rounding, dropout, two micro-batches a step, and a checkpoint at 3, 6 and the end, 7."""
    return small(
        recipe="penny4",
        steps=7,
        accumulate=2,
        checkpoint=Checkpoint(every=3),
        evaluation=Evaluation(every=3, tokens=64),
    )


@pytest.fixture(scope="module")
def straight(mortal, tmp_path_factory):
    """The same run, never stopped."""
    made = {}

    def folder(run: Run) -> Path:
        if run not in made:
            made[run] = tmp_path_factory.mktemp("straight") / "r"
            assert not mortal(run, made[run])
        return made[run]

    return folder


def state(folder: Path) -> dict:
    """All that must come out the same: tensors as bytes, counters, positions, curves, the ledger."""
    newest = max((folder / "checkpoints").iterdir())
    held = {"checkpoint": newest.name}
    for name in ("model.safetensors", "optimizer.safetensors", "optimizer.json"):
        held[name] = hashlib.sha256((newest / name).read_bytes()).hexdigest()
    held["model"] = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    numbers = json.loads((newest / "state.json").read_text())
    numbers["progress"] = {k: v for k, v in numbers["progress"].items() if k not in CLOCKS}
    held["state"] = numbers
    lines = read_ledger(folder / "ledger.jsonl")
    held["ledger"] = [{k: v for k, v in line.items() if k not in TIMES_AND_MEMORY} for line in lines]
    held["checkpoints"] = sorted(os.listdir(folder / "checkpoints"))
    return held


@pytest.mark.parametrize("deaths", DEATHS)
def test_a_killed_run_ends_as_if_it_had_never_been_stopped(mortal, straight, long_run, tmp_path, deaths):
    expected = state(straight(long_run))
    assert expected["state"]["noise"]["step"] == 7
    assert [line["step"] for line in expected["ledger"] if line["kind"] == "step"] == list(range(1, 8))
    for death in deaths:
        assert mortal(long_run, tmp_path / "r", death)
        assert not (tmp_path / "r" / "model").exists()
    assert not mortal(long_run, tmp_path / "r")
    assert state(tmp_path / "r") == expected


SWITCHED = [
    pytest.param([{"at": "switch", "n": 1}, {"at": "step", "n": 2}, {"at": "switch", "n": 1}], id="at, after, at"),
    pytest.param([{"at": "step", "n": 3}, {"at": "noted", "n": 1}], id="before, between", marks=pytest.mark.long),
    pytest.param([{"at": "step", "n": 4}, {"at": "step", "n": 3}], id="after each", marks=pytest.mark.long),
]


RESCUED = [
    pytest.param([{"at": "guard", "n": 1}, {"at": "back", "n": 1}, {"at": "step", "n": 4}], id="at, back, after"),
    pytest.param([{"at": "step", "n": n} for n in (6, 3, 2, 4)], id="often", marks=pytest.mark.long),
    pytest.param([{"at": "back", "n": 1}] * 3 + [{"at": "noted", "n": 3}], id="thrice", marks=pytest.mark.long),
    pytest.param([{"at": "tensors", "n": 11}, {"at": "prune", "n": 1}], id="saving", marks=pytest.mark.long),
    pytest.param([{"at": "step", "n": 5}, {"at": "folder", "n": 6}], id="folders", marks=pytest.mark.long),
]


@pytest.mark.parametrize("deaths", RESCUED)
def test_a_run_killed_around_its_rescue_ends_so_too(mortal, straight, small, tmp_path, deaths):
    run = small(
        recipe="bf16 until 4, then paper-v8",
        steps=9,
        checkpoint=Checkpoint(every=1),
        diagnosis=Diagnosis(every=2),
        guard=Guard(mode="act"),
    )
    expected = state(straight(run))
    steps = [line["step"] for line in expected["ledger"] if line["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    for death in deaths:
        assert mortal(run, tmp_path / "r", death)
    assert not mortal(run, tmp_path / "r")
    assert state(tmp_path / "r") == expected


@pytest.mark.parametrize("deaths", SWITCHED)
def test_a_run_killed_around_a_switch_of_recipes_ends_so_too(mortal, straight, small, tmp_path, deaths):
    text = "w8a8g8sm8v8 until 3, then penny8-nomaster until 5, then bf16"
    run = small(recipe=text, steps=7, checkpoint=Checkpoint(every=1))
    expected = state(straight(run))
    assert [line["step"] for line in expected["ledger"] if line["kind"] == "switch"] == [3, 5]
    for death in deaths:
        assert mortal(run, tmp_path / "r", death)
    assert not mortal(run, tmp_path / "r")
    assert state(tmp_path / "r") == expected


def forget(folder: Path, change) -> None:
    """Changes the newest checkpoint's plain numbers, checksums kept true."""
    newest = max((folder / "checkpoints").iterdir())
    numbers = json.loads((newest / "state.json").read_text())
    change(numbers)
    (newest / "state.json").write_text(json.dumps(numbers))
    sums = json.loads((newest / "checksums.json").read_text())
    sums["state.json"] = hashlib.sha256((newest / "state.json").read_bytes()).hexdigest()
    (newest / "checksums.json").write_text(json.dumps(sums))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param(lambda numbers: numbers["noise"].update(step=0), False, id="noise step"),
        pytest.param(lambda numbers: None, True, id="nothing", marks=pytest.mark.long),
        pytest.param(lambda numbers: numbers["noise"].update(seed=1), False, id="seed", marks=pytest.mark.long),
        pytest.param(lambda numbers: numbers.update(sampler=0), False, id="sampler", marks=pytest.mark.long),
    ],
)
def test_the_comparison_notices_what_a_checkpoint_forgets(mortal, straight, long_run, tmp_path, change, same):
    assert mortal(long_run, tmp_path / "r", {"at": "step", "n": 5})
    forget(tmp_path / "r", change)
    assert not mortal(long_run, tmp_path / "r")
    found, expected = state(tmp_path / "r"), state(straight(long_run))
    assert (found["model.safetensors"] == expected["model.safetensors"]) is same
    assert (found == expected) is same


def test_a_checkpoint_without_its_noise_counter_is_not_resumed(small, tmp_path):
    from pennyweight.training import train

    run = small(steps=4, checkpoint=Checkpoint(every=2))
    train(run, tmp_path / "r", progress=False)
    (tmp_path / "r" / "result.json").unlink()
    forget(tmp_path / "r", lambda numbers: numbers.pop("noise"))
    with pytest.raises(
        ValueError, match="checkpoint .*step-000004 does not fit this run: it does not hold its 'noise'"
    ):
        train(run, tmp_path / "r", progress=False)


@pytest.mark.long
def test_twenty_kills_at_random_times_change_nothing(mortal, straight, long_run, tmp_path):
    run = dataclasses.replace(long_run, steps=31, checkpoint=Checkpoint(every=4))
    expected = state(straight(run))
    draw = random.Random(0)
    began = time.monotonic()
    assert not mortal(run, tmp_path / "whole")
    whole = time.monotonic() - began
    kills = 0
    for trial in range(200):
        folder = tmp_path / f"r{trial}"
        # Most die anywhere in the run and are resumed until they end; each of them may die several times.
        while mortal(run, folder, {"seconds": draw.uniform(0.05, 1.05) * whole}):
            kills += 1
            if (folder / "result.json").exists():
                break
        if not (folder / "result.json").exists():
            mortal(run, folder)
        assert state(folder) == expected
        shutil.rmtree(folder)
        if kills >= 20:
            break
    assert kills >= 20
