"""Progress over a grid: steps of all cells, and the time left from the work done now."""

from pathlib import Path

import pytest

from pennyweight.experiments.sweep import progress
from pennyweight.experiments.sweep.progress import Shown, last_step


def ledger(folder: Path, *steps: int) -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(f'{{"kind": "step", "step": {step}, "loss": 4.0}}\n' for step in steps)
    (folder / "ledger.jsonl").write_text('{"kind": "evaluation", "step": 0, "loss": 8.0}\n' + lines + '{"kind": "st')
    return folder


def test_the_last_step_of_a_run_is_read_from_the_end_of_its_ledger(tmp_path: Path) -> None:
    assert last_step(tmp_path / "absent") == 0
    assert last_step(ledger(tmp_path / "a")) == 0
    assert last_step(ledger(tmp_path / "a", *range(1, 1234))) == 1233


def test_a_line_tells_cells_steps_and_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Shown(4, 400, done=1, steps=100, progress=True)
    shown.begin("a", ledger(tmp_path / "a", 40))  # 40 steps of an earlier time count as done, not as speed
    shown.begin("b", tmp_path / "b")
    now[0] = 1.0
    shown.look()
    assert capsys.readouterr().err == ""
    ledger(tmp_path / "a", 100)
    now[0] = 60.0
    shown.end("a", "w8, seed 0", "finished", 100, None)
    assert capsys.readouterr().err == "sweep: 50 %  2/4 cells, 1 running  3:20 left\n"
    shown.end("b", "w4, seed 0", "diverged", 100, "the loss is nan")
    assert capsys.readouterr().err == (
        "w4, seed 0: diverged: the loss is nan\nsweep: 75 %  3/4 cells, 1 diverged, 0 running  0:38 left\n"
    )
    Shown(4, 400, done=0, steps=0, progress=False).say("nothing")
    assert capsys.readouterr().err == ""
