"""A run goes on from where it stands, and nothing that stands is lost or told twice."""

import os
import signal

import pytest

from pennyweight.training import Checkpoint, read_ledger, train
from pennyweight.training import loop as loop_room


def kinds(folder):
    return [(line["kind"], line["step"]) for line in read_ledger(folder / "ledger.jsonl")]


def interrupt_at(monkeypatch, number):
    """Ctrl-C during the step of this number."""
    whole = loop_room.Loop.step

    def interrupted(self):
        if self.training.progress.step + 1 == number:
            os.kill(os.getpid(), signal.SIGINT)
        whole(self)

    monkeypatch.setattr(loop_room.Loop, "step", interrupted)


def test_ctrl_c_in_a_step_with_a_checkpoint_saves_and_tells_it_once(small, tmp_path, monkeypatch):
    run = small(steps=4, checkpoint=Checkpoint(every=2))
    train(run, tmp_path / "straight", progress=False)
    saved = []
    whole = loop_room.save
    monkeypatch.setattr(
        loop_room, "save", lambda place, step, *rest, **more: saved.append(step) or whole(place, step, *rest, **more)
    )
    with monkeypatch.context() as during:
        interrupt_at(during, 2)
        with pytest.raises(KeyboardInterrupt, match="the last checkpoint is step-000002"):
            train(run, tmp_path / "r", progress=False)
    train(run, tmp_path / "r", progress=False)
    assert saved == [2, 4]
    assert kinds(tmp_path / "r") == kinds(tmp_path / "straight")
