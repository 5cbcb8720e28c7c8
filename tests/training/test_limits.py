"""What is too large for the text, the memory or the disk is said before anything is written."""

import dataclasses
import shutil

import pytest

from pennyweight.training import TrainingFailed, train
from pennyweight.training.limits import check_disk, check_memory

GB = 10**9


def held(weights=0, states=0, activations=0):
    return {"weights": weights, "gradients": weights, "states": states, "saved activations": activations}


@pytest.mark.parametrize(
    "changes", [{"batch": 99_999_999_999}, {"accumulate": 99_999_999_999}, {"batch": 2, "accumulate": 1000}]
)
def test_a_step_that_would_read_a_sequence_twice_is_refused_and_leaves_nothing(small, tmp_path, changes):
    with pytest.raises(ValueError, match=r"^a step of this run reads [\d,]+ sequences of 32 tokens .*holds \d+$"):
        train(small(**changes), tmp_path / "r", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_reads_the_whole_text_once_is_allowed(small):
    with pytest.raises(ValueError, match="holds") as caught:
        train(small(batch=100_000), progress=False)
    whole = int(str(caught.value).split()[-1].replace(",", ""))
    assert train(small(batch=whole, steps=1), progress=False).tokens == whole * 32
    with pytest.raises(ValueError, match="sequences"):
        train(small(batch=whole + 1), progress=False)


def test_what_no_step_of_this_machine_can_hold_is_refused_with_the_largest_part_named():
    with pytest.raises(ValueError, match=r"^a step of this run holds 9,002,000\.0 GB .*9,000,000\.0 GB of them saved"):
        check_memory(held(weights=1000 * GB, activations=9_000_000 * GB), "cpu")
    check_memory(held(weights=1000, activations=1000), "cpu")


def test_a_model_larger_than_the_memory_leaves_nothing(small, tmp_path, monkeypatch):
    from pennyweight.training import limits

    monkeypatch.setattr(limits, "memory_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match="this machine has 0.0 GB of memory"):
        train(small(), tmp_path / "r", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_tells_no_memory_refuses_nothing(monkeypatch):
    from pennyweight.training import limits

    monkeypatch.setattr(limits, "memory_bytes", lambda: None)
    check_memory(held(weights=9_000_000 * GB), "cpu")


def test_a_disk_that_is_too_small_is_said_before_the_first_step(small, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(TrainingFailed, match="MB are free"):
        train(dataclasses.replace(small(), steps=1), tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()


def test_a_checkpoint_and_the_model_are_what_the_disk_must_hold(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_disk(tmp_path / "a" / "b", held(weights=2000, states=1000))
    with pytest.raises(TrainingFailed, match="need"):
        check_disk(tmp_path / "a" / "b", held(weights=2000, states=1001))
