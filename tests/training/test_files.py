"""Files are there whole or not at all."""

import errno
import os

import pytest

from pennyweight.training import files
from pennyweight.training.files import is_full, sweep, whole_folder, write_json, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "new \ud800")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_new_text_takes_the_place_of_the_old_one(tmp_path):
    write_whole(tmp_path / "a.txt", "old and longer")
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_json_comes_with_the_checksum_of_its_bytes(tmp_path):
    # printf '[\n 1\n]\n' | sha256sum
    told = write_json(tmp_path / "a.json", [1])
    assert (tmp_path / "a.json").read_bytes() == b"[\n 1\n]\n"
    assert told == "7205f05739d0e7ad09f02a57a3497b04b7ba4d250d6619afb18729ae8ec56065"


def test_a_folder_stands_whole_and_takes_the_place_of_the_old_one(tmp_path):
    for content in ("old", "new"):
        with whole_folder(tmp_path / "f") as partial:
            (partial / content).write_text(content)
            assert not (tmp_path / "f" / content).exists()
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == ["new"]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "f") as partial:  # noqa: PT012  # the block fails
        (partial / "half").write_text("")
        raise OSError(errno.ENOSPC, "full")
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == []


@pytest.mark.parametrize("moment", [2, 3, 4])  # 1 removes an older half; then aside, in, and the old one away
def test_a_folder_is_never_gone_while_another_takes_its_place(tmp_path, monkeypatch, moment):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("")
    calls = []

    def mortal(whole):
        def moved(*args, **rest):
            calls.append(args)
            if len(calls) >= moment:
                raise KeyboardInterrupt  # and at every later one: a killed process tidies nothing
            return whole(*args, **rest)

        return moved

    monkeypatch.setattr(files.Path, "rename", mortal(files.Path.rename))
    monkeypatch.setattr(files.shutil, "rmtree", mortal(files.shutil.rmtree))
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "f") as partial:
        (partial / "new").write_text("")
    monkeypatch.undo()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == ["new" if moment == 4 else "old"]


def test_what_a_killed_process_left_of_a_file_is_swept(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(files.Path, "replace", lambda path, other: None)
    monkeypatch.setattr(files.Path, "unlink", lambda path, missing_ok=False: None)  # a killed process tidies nothing
    write_whole(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_want_of_room_is_told_from_other_failures_to_write():
    assert is_full(OSError(errno.ENOSPC, "x"))
    assert is_full(OSError(errno.EDQUOT, "x"))
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(PermissionError(errno.EACCES, "No space left on device"))
    assert not is_full(OSError("something else"))
