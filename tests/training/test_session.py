"""A run goes on from where it stands, and nothing that stands is lost or told twice."""

import json
import os
import shutil
import signal

import pytest
import torch

from pennyweight.training import Checkpoint, launch, load_run, read_ledger, train
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


def test_a_checkpoint_is_of_one_run_and_no_other(small, tmp_path):
    train(small(steps=5, checkpoint=Checkpoint(every=2)), tmp_path, progress=False)
    written = json.loads((tmp_path / "run.json").read_text())
    written["run"]["steps"] = 7
    (tmp_path / "run.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="step-000005 does not fit this run: .* of another run.* steps: 5 is not 7"):
        train(load_run(tmp_path), resume=tmp_path, progress=False)


def test_lines_that_the_ledger_lost_are_said(small, tmp_path, caplog):
    run = small(steps=2)
    train(run, tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:2]))
    train(run, tmp_path, progress=False)
    assert "ledger.jsonl has 2 of the 5 lines" in caplog.text  # three evaluations and two steps


def test_another_number_of_threads_is_said(small, tmp_path, caplog):
    run = small(steps=1)
    train(run, tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    written = json.loads((tmp_path / "run.json").read_text())
    assert not caplog.text
    written["machine"]["threads"] = 77
    (tmp_path / "run.json").write_text(json.dumps(written))
    train(run, tmp_path, progress=False)
    assert "began with 77 threads" in caplog.text


@pytest.mark.parametrize("seed", [0, 1])
def test_a_folder_that_was_taken_while_the_data_was_read_answers_or_refuses(small, tmp_path, monkeypatch, seed):
    run, other = small(steps=1), small(steps=1, seed=seed)
    prepare, results = launch.prepare, []

    def overtaken(*words, **rest):
        monkeypatch.setattr(launch, "prepare", prepare)
        results.append(train(run, tmp_path / "r", progress=False))
        return prepare(*words, **rest)

    monkeypatch.setattr(launch, "prepare", overtaken)
    if other == run:
        assert [train(other, tmp_path / "r", progress=False)] == results
    else:
        with pytest.raises(FileExistsError, match="already holds another run.*seed: 0 is not 1"):
            train(other, tmp_path / "r", progress=False)
    assert kinds(tmp_path / "r").count(("end", 1)) == 1


def test_a_model_that_is_gone_is_written_again_from_the_last_checkpoint(small, tmp_path, caplog):
    run, place = small(steps=1), tmp_path / "r"
    result = train(run, place, progress=False)
    written, told = (place / "model" / "model.safetensors").read_bytes(), kinds(place)
    shutil.rmtree(place / "model")
    assert train(run, place, progress=False).val_loss == result.val_loss
    assert (place / "model" / "model.safetensors").read_bytes() == written
    assert kinds(place) == told
    shutil.rmtree(place / "model")
    shutil.rmtree(place / "checkpoints")
    assert train(run, place, progress=False).val_loss == result.val_loss
    assert "is gone, and there is no checkpoint" in caplog.text


@pytest.mark.parametrize("content", ["{}", '{"curve": 5}', "[" * 100_000])
def test_a_result_that_is_none_is_said_in_one_sentence(small, tmp_path, content):
    run = small(steps=1)
    train(run, tmp_path, progress=False)
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match="result.json (holds no result of a run|is not JSON)"):
        train(run, tmp_path, progress=False)


def test_a_result_with_a_field_too_many_is_said_in_one_sentence(small, tmp_path):
    run = small(steps=1)
    result = train(run, tmp_path, progress=False)
    (tmp_path / "result.json").write_text(json.dumps({**result.to_dict(), "other": 3}))
    with pytest.raises(ValueError, match="result.json holds no result of a run .*other"):
        train(run, tmp_path, progress=False)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it imports its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
def test_a_run_with_compiled_blocks_goes_on_as_if_it_had_never_stopped(small, tmp_path, monkeypatch):
    run = small(recipe="penny8", steps=4, compile=True, checkpoint=Checkpoint(every=2))
    straight = train(run, tmp_path / "straight", progress=False)
    with monkeypatch.context() as during:
        interrupt_at(during, 3)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "r", progress=False)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["run"]["compile"] is True
    torch._dynamo.reset()
    resumed = train(run, tmp_path / "r", progress=False)
    assert resumed.val_loss == straight.val_loss
    assert resumed.curve == straight.curve
    plain = train(small(recipe="penny8", steps=4), progress=False)
    assert straight.val_loss == pytest.approx(plain.val_loss, rel=1e-3)
