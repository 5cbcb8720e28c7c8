"""`pennyweight analyze` looks at a finished run and at one that was stopped."""

import json
from pathlib import Path

import pytest

from pennyweight.cli.app import main


def test_a_run_is_looked_at_and_the_page_written(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = ["--set", "diagnosis.every=2", "checkpoint.every=2", "checkpoint.keep=2"]
    assert main(["train", "--recipe", "penny8", "--steps", "4", "--out", "run", *small, *looked]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["analyze", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["checkpoint"], told["recipe"]) == (4, "step-000004", "penny8")
    assert "transformer.h.0.mlp.c_fc" in told["layers"]
    assert all(20 < value < 60 for value in told["measures"]["x.db"])
    assert all(0.9 < value <= 1 for value in told["measures"]["gradient.cosine"])
    assert told["sharpness"]["eigenvalue"] > 0
    assert len(told["sharpness"]["slice_1d"]) == 17
    assert {len(line) for line in told["sharpness"]["slice_2d"]} == {9}
    page = Path("run/analysis.html").read_text()
    assert "How sharp its minimum is" in page
    assert "While it was trained" in page
    assert page.count("<script") == 1
    assert before == {path: path.read_bytes() for path in before}
    (Path("run") / "result.json").unlink()  # a run that was stopped: its newest checkpoint is looked at
    assert main(["analyze", "run"]) == 0
    said = capsys.readouterr().out
    assert "largest eigenvalue" in said
    assert "run/analysis.html" in said


@pytest.mark.parametrize(("make", "said"), [(False, "there is no run to read at gone"), (True, "holds none yet")])
def test_what_cannot_be_looked_at_is_said_in_one_sentence(
    make: bool, said: str, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if make:
        assert main(["train", "--steps", "1", "--out", "gone", *small]) == 0
        for path in Path("gone/checkpoints").iterdir():
            path.rename(Path(path.name))
    capsys.readouterr()
    assert main(["analyze", "gone"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("pennyweight: ")
    assert said in told
