"""A checkpoint is whole or not there, and a damaged one is never believed."""

import errno
import json
import os

import pytest
import torch

from pennyweight.training import checkpoint, files
from pennyweight.training.checkpoint import Saved, checkpoints, damage, load, newest, save


def saved(number: float) -> Saved:
    return Saved(
        model={"w": torch.full((4, 4), number)},
        optimizer={"state": {0: {"m": torch.full((3,), number)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        state={"progress": {"step": int(number)}},
    )


def names(folder):
    return sorted(os.listdir(folder))


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 3, saved(3), keep=2)
    assert path.name == "step-000003"
    again = load(path)
    assert torch.equal(again.model["w"], torch.full((4, 4), 3.0))
    assert torch.equal(again.optimizer["state"][0]["m"], torch.full((3,), 3.0))
    assert again.optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert again.state == {"progress": {"step": 3}}


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 12):
        save(tmp_path, step, saved(step), keep=2)
    assert names(tmp_path) == ["step-000003", "step-000012"]
    assert newest(tmp_path) == (tmp_path / "step-000012", [])


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "nowhere") == (None, [])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [flip, truncate, remove, replace_by_a_folder])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "optimizer.json", "state.json", "checksums.json"]
)
def test_the_newest_that_holds_is_taken_and_the_damaged_one_named(tmp_path, name, harm):
    save(tmp_path, 1, saved(1), keep=2)
    path = save(tmp_path, 2, saved(2), keep=2)
    harm(path / name)
    taken, told = newest(tmp_path)
    assert taken == tmp_path / "step-000001"
    assert len(told) == 1
    assert "step-000002 is damaged" in told[0]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
def test_one_that_the_system_does_not_let_us_read_is_damaged(tmp_path, monkeypatch, error):
    save(tmp_path, 1, saved(1), keep=2)
    save(tmp_path, 2, saved(2), keep=2)
    whole = checkpoint.checksum

    def closed(path):
        if path.parent.name == "step-000002":
            raise OSError(error, os.strerror(error), str(path))
        return whole(path)

    monkeypatch.setattr(checkpoint, "checksum", closed)
    taken, told = newest(tmp_path)
    assert taken == tmp_path / "step-000001"
    assert told == [f"checkpoint step-000002 is damaged (model.safetensors cannot be read: {os.strerror(error)})"]


def test_when_all_are_damaged_it_does_not_silently_begin_anew(tmp_path):
    for step in (1, 2):
        truncate(save(tmp_path, step, saved(step), keep=2) / "state.json")
    with pytest.raises(ValueError, match="no checkpoint in .* can be trusted: .*step-000002.*step-000001"):
        newest(tmp_path)


def test_a_damaged_one_is_replaced_when_its_step_is_reached_again(tmp_path):
    save(tmp_path, 1, saved(1), keep=2)
    truncate(save(tmp_path, 3, saved(3), keep=2) / "state.json")
    save(tmp_path, 2, saved(2), keep=2)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    truncate(tmp_path / "step-000002" / "state.json")
    save(tmp_path, 2, saved(2), keep=2)
    assert damage(tmp_path / "step-000002") is None


def test_what_a_killed_process_left_is_swept_and_never_taken(tmp_path):
    save(tmp_path, 1, saved(1), keep=2)
    (tmp_path / ".step-000002.partial").mkdir()
    (tmp_path / ".step-000002.partial" / "model.safetensors").write_bytes(b"half")
    assert newest(tmp_path)[0] == tmp_path / "step-000001"
    save(tmp_path, 2, saved(2), keep=2)
    assert names(tmp_path) == ["step-000001", "step-000002"]


@pytest.mark.parametrize(
    ("room", "victim"), [(checkpoint, "write_tensors"), (checkpoint, "write_json"), (files, "sync_folder")]
)
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half_written(tmp_path, room, victim, monkeypatch):
    save(tmp_path, 1, saved(1), keep=1)
    whole = getattr(room, victim)

    def full(path, *rest):
        whole(path, *rest)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, victim, full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, saved(2), keep=1)
    assert names(tmp_path) == ["step-000001"]
    assert damage(tmp_path / "step-000001") is None


def test_checksums_stand_in_plain_json(tmp_path):
    path = save(tmp_path, 1, saved(1), keep=1)
    sums = json.loads((path / "checksums.json").read_text())
    assert sorted(sums) == ["model.safetensors", "optimizer.json", "optimizer.safetensors", "state.json"]
    assert all(len(one) == 64 for one in sums.values())


def test_step_numbers_sort_as_numbers(tmp_path):
    for name in ("step-000009", "step-000010", "step-1000000", "step-x", "step-\u00b2", "other"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1000000", "step-000010", "step-000009"]
