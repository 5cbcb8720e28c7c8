"""Places: where a command writes, and what it says is there when it is interrupted."""

from pathlib import Path

import pytest

from pennyweight.cli.places import interrupted, resumable


@pytest.mark.parametrize(
    "there", ["checkpoints/step-000003", "runs/bf16-seed0/checkpoints/step-000003", "runs/a/result.json"]
)
def test_what_is_done_is_said_where_there_is_something(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True)
    assert interrupted(tmp_path, "the same again") == f"what is done is saved in {tmp_path}; the same again"


def test_nothing_is_said_to_be_saved_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs" / "bf16-seed0").mkdir(parents=True)
    (tmp_path / "runs" / "bf16-seed0" / "run.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "absent"):
        assert interrupted(folder, "the same again") == "nothing was done yet"


def test_ctrl_c_is_told_and_goes_on_and_what_ends_well_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with resumable(tmp_path):
        (tmp_path / "runs" / "a").mkdir(parents=True)
        (tmp_path / "runs" / "a" / "result.json").write_text("{}")
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        raise KeyboardInterrupt
    said = f"pennyweight: what is done is saved in {tmp_path}; the same command with --out {tmp_path} goes on\n"
    assert capsys.readouterr().err == said
