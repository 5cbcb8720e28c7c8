"""Trackers: they hear what the ledger is told, once, also when a run stops and goes on."""

import importlib.util
import logging
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pennyweight.training import Checkpoint, Run, differences, read_ledger, train
from pennyweight.training.ledger import Ledger
from pennyweight.training.trackers import check_tracker, tracker_of
from pennyweight.training.trackers.tracker import event, scalars


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def offline(monkeypatch):
    """No connection leaves this machine."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def stopped_and_resumed(run: Run, folder: Path, monkeypatch) -> None:
    """Trains to the middle of step 4, with a checkpoint at 2, and then to the end."""
    with monkeypatch.context() as broken:
        write = Ledger.write

        def dies(self, kind, step, **numbers):
            if (kind, step) == ("step", 4):
                raise InterruptedError("killed")
            write(self, kind, step, **numbers)

        broken.setattr(Ledger, "write", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(run, folder, progress=False)
    train(run, folder, progress=False)


def test_numbers_are_named_by_their_line_and_all_else_is_said():
    step = {"kind": "step", "step": 3, "loss": 2.5, "tokens": 12, "gradient_norm": None}
    switch = {"kind": "switch", "step": 3, "before": "bf16", "recipe": "w8a8"}
    assert scalars(step) == {"step/loss": 2.5, "step/tokens": 12.0}
    assert scalars(switch) == {}
    assert [event(line) for line in (step, switch, {"kind": "checkpoint", "step": 3})] == [
        None,
        "switch: before bf16, recipe w8a8",
        "checkpoint",
    ]


def test_a_listener_hears_every_line_of_the_ledger(tmp_path):
    heard = []
    with Ledger(tmp_path / "l") as ledger:
        ledger.listeners.append(heard.append)
        ledger.write("step", 1, loss=2.0, norm=float("nan"))
        ledger.write("end", 1)
    assert heard == read_ledger(tmp_path / "l") == [{"kind": "step", "step": 1, "loss": 2.0, "norm": None}, heard[1]]


def test_a_tracker_is_named_rightly_and_installed(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"Run.tracker is one of .*, got 'tensorbord'; did you mean 'tensorboard'\?"):
        Run(tracker="tensorbord")
    monkeypatch.setattr("pennyweight.training.trackers.chosen.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(ValueError, match=f"tracker={name} is not installed here; pip install {name}"):
            train(small(tracker=name), tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()
    check_tracker("auto")
    assert tracker_of(Run(), tmp_path) is None


def test_a_folder_that_a_tracker_left_is_not_taken_for_its_library(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match="tracker=wandb is not installed"):
        check_tracker("wandb")


def test_a_named_tracker_needs_a_run_folder_and_the_usual_one_does_not(small):
    library = ModuleType("tensorboard")
    assert tracker_of(Run(), None) is None
    assert tracker_of(Run(tracker="none"), Path(library.__name__)) is None
    if importlib.util.find_spec("tensorboard") is not None:
        with pytest.raises(ValueError, match="tracker=tensorboard needs a run folder, got none; give out="):
            train(small(tracker="tensorboard"), progress=False)


def test_who_tracks_a_run_makes_no_other_run_of_it():
    assert differences(Run(tracker="none"), Run()) == []


@needs("tensorboard")
def test_an_installation_that_is_broken_stops_nobody_who_did_not_ask(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    monkeypatch.delitem(sys.modules, "pennyweight.training.trackers.tensorboard", raising=False)
    with caplog.at_level(logging.WARNING):
        assert tracker_of(Run(), tmp_path) is None
    assert "cannot be imported" in caplog.text
    with pytest.raises(ValueError, match="tracker=tensorboard is installed but cannot be imported"):
        tracker_of(Run(tracker="tensorboard"), tmp_path)


@needs("tensorboard")
def test_tensorboard_holds_every_step_once_also_after_a_crash(small, tmp_path, monkeypatch, offline):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = small(steps=5, checkpoint=Checkpoint(every=2), recipe="bf16 until 3, then w8a8")
    stopped_and_resumed(run, tmp_path, monkeypatch)
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [one for one in EventFileLoader(str(path)).Load() if one.HasField("summary")]
    found = [(value.tag, one.step, value.tensor) for one in events for value in one.summary.value]
    lines = read_ledger(tmp_path / "ledger.jsonl")
    expected = [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]
    losses = [(step, tensor.float_val[0]) for tag, step, tensor in found if tag == "step/loss"]
    assert losses == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]  # written in float32
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    said = [(step, tensor.string_val[0]) for tag, step, tensor in found if tag == "events/switch"]
    assert said == [(3, b"switch: before bf16, recipe w8a8")]
    tags = {tag for tag, _, _ in found}
    assert {"step/learning_rate", "step/gradient_norm", "step/tokens_per_second", "step/resident_bytes"} <= tags
    assert {"evaluation/loss", "end/loss", "events/checkpoint"} <= tags
    assert [one.wall_time for one in events] == sorted(one.wall_time for one in events)


@needs("tensorboard")
def test_a_file_that_ends_in_the_middle_of_an_event_is_read_so_far(tmp_path):
    from pennyweight.training.trackers.tensorboard import TensorBoard

    lines = [{"kind": "step", "step": step, "loss": 1.0} for step in (1, 2)]
    first = TensorBoard()
    first.begin(Run(), tmp_path, [])
    for line in lines:
        first.write(line)
    first.end()
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    again = TensorBoard()
    again.begin(Run(), tmp_path, lines)
    again.end()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@needs("wandb")
@pytest.mark.filterwarnings("ignore")  # its own
def test_wandb_offline_writes_into_the_run_folder(small, tmp_path, monkeypatch, offline):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = small(steps=5, checkpoint=Checkpoint(every=2), tracker="wandb")
    stopped_and_resumed(run, tmp_path, monkeypatch)
    name = (tmp_path / "wandb-id").read_text().strip()
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")} == {name}


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # its own
def test_mlflow_holds_every_step_once_also_after_a_crash(small, tmp_path, monkeypatch, offline):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = small(steps=5, checkpoint=Checkpoint(every=2), tracker="mlflow", recipe="bf16 until 3, then w8a8")
    stopped_and_resumed(run, tmp_path, monkeypatch)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    name = (tmp_path / "mlflow-id").read_text().strip()
    history = client.get_metric_history(name, "step/loss")
    lines = read_ledger(tmp_path / "ledger.jsonl")
    assert [(one.step, one.value) for one in history] == [
        (line["step"], line["loss"]) for line in lines if line["kind"] == "step"
    ]
    told = client.get_run(name)
    assert told.info.status == "FINISHED"
    assert told.data.tags["switch.3"] == "switch: before bf16, recipe w8a8"
    assert told.data.params["steps"] == "5"
