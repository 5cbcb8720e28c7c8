"""A run folder says whose it is and lets nobody else in."""

import json
import os

import pytest

from pennyweight.training import Run, load_run
from pennyweight.training.folder import RunFolder, check_writable


def closed_to_us(monkeypatch, folder):
    """Makes the system say of one folder that we may not write there (root always may, so chmod would not do)."""
    whole = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(folder) and whole(path, mode))


def test_a_folder_that_may_not_be_written_is_said_by_name_however_deep(tmp_path, monkeypatch):
    closed_to_us(monkeypatch, tmp_path)
    for place in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match=f"^results cannot be written into {place}: .* {tmp_path}$"):
            check_writable(place)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_said_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(FileExistsError, match=f"but {tmp_path / 'file'} is a file$"):
            check_writable(place)


def test_a_folder_that_is_not_there_yet_may_be_written_and_is_not_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is not JSON"), ("[1]", "holds something else"), ('{"run": 3}', "holds something else")]
)
def test_what_is_no_run_is_refused_by_name(tmp_path, content, said):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=f"run.json.*{said}|{said}"):
        load_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_run(tmp_path / "nowhere")


def test_a_folder_of_another_run_is_refused_with_what_can_be_done(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"run": Run(steps=20).to_dict()}))
    with pytest.raises(FileExistsError, match=r"steps: 20 is not 40; choose another folder \(--out\) \(its schedule"):
        RunFolder(tmp_path).admit(Run(steps=40), resume=False)
    with pytest.raises(ValueError, match=r"seed: 0 is not 1; choose another folder \(--out\)$"):
        RunFolder(tmp_path).admit(Run(steps=20, seed=1), resume=True)


@pytest.mark.parametrize("name", ["results.json", "runs"])
def test_a_comparison_is_not_trained_over(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f"^{tmp_path} holds a comparison; choose another folder"):
        RunFolder(tmp_path).admit(Run(), resume=False)
