"""A run in a process of its own: it answers in JSON, dies without taking the others along, and never runs alone."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments import worker
from pennyweight.experiments.worker import in_fresh_process
from pennyweight.training import Data, DiskFull, Run, TrainingFailed

BASE = Run(steps=10)


def test_ctrl_c_while_a_runs_process_starts_says_nothing_of_imports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seconds in (0.3, 1.0):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            in_fresh_process(BASE, tmp_path / "r", False)
        timer.join()
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    answer = in_fresh_process(BASE, tmp_path / "r", False)
    assert answer == {"status": "failed", "error": "the process of the run ended with signal SIGKILL"}


def test_a_run_computes_with_the_threads_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    seen = "{'result': [t.get_num_threads(), os.environ['OMP_NUM_THREADS']]}"
    told = f"worker.answer = lambda asked: (t.set_num_threads(asked['threads']), {seen})[1]"

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        code = f"import os, torch as t; from pennyweight.experiments import worker; {told}; worker.main()"
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert in_fresh_process(BASE, tmp_path / "r", False, threads=2) == {"result": [2, "2"]}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DiskFull("no room"), {"status": "failed", "error": "no room", "disk_full": True}),
        (OSError(errno.ENOSPC, "no room"), {"status": "failed", "error": "[Errno 28] no room", "disk_full": True}),
        (OSError(errno.EIO, "broken"), {"status": "failed", "error": "[Errno 5] broken"}),
        (TrainingFailed("too bad"), {"status": "failed", "error": "too bad"}),
        (ValueError("no"), {"refused": "ValueError", "error": "no"}),
    ],
)
def test_what_stopped_a_run_is_told(error: Exception, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(worker, "train", train)
    assert worker.answer({"run": BASE.to_dict(), "folder": "r", "progress": False}) == told


@pytest.mark.long
def test_a_run_whose_comparison_was_killed_saves_itself_and_ends(tmp_path: Path) -> None:
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    (tmp_path / "text").mkdir()
    for name in range(40):
        (tmp_path / "text" / f"{name}.txt").write_text(
            f"the {name} bits of line {name} are written in {name} ways\n" * 40
        )
    data = Data(source=str(tmp_path / "text"), tokenizer="bpe-300", context=16)
    run = Run(model=str(tmp_path / "config.json"), data=data, steps=1_000_000, batch=2)
    command = [sys.executable, "-c", "from pennyweight.experiments.worker import main; main()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdin
    assert process.stdout
    asked = {"run": run.to_dict(), "folder": str(tmp_path / "r"), "progress": False}
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    ledger = tmp_path / "r" / "ledger.jsonl"
    deadline = time.monotonic() + 120
    while not (ledger.exists() and ledger.read_text().count('"step"') > 3):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.stdin.close()
    with process.stdout as answers:
        assert json.loads(answers.read()) == {"interrupted": True}
    assert process.wait(60) == 0
    assert list((tmp_path / "r" / "checkpoints").glob("step-*"))
