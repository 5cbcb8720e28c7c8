"""The verb `study`: what it lists and how it refuses; what it trains is tested in tests/experiments/studies."""

import json
import shutil
from pathlib import Path

import pytest

from pennyweight.cli.app import main
from pennyweight.experiments.studies import conduct

NAME = "quantized-pretraining"


def test_the_list_names_every_claim_with_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # or rows are broken
    assert main(["study", "list"]) == 0
    told = capsys.readouterr().out
    assert "quantized-pretraining: Chitsaz" in told
    assert "4-bit activations fail because of outlier channels" in told
    assert main(["study", "list", "--json"]) == 0
    studies = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in studies] == [NAME]
    assert all(claim["text"] and claim["source"] for claim in studies[0]["claims"])


def test_bad_requests_are_one_sentence(
    small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = small[small.index("--data") + 1]
    monkeypatch.setattr(conduct, "probe", lambda run, threads: 20_000.0)
    Path("sweep").mkdir()
    Path("sweep/results.sqlite").touch()
    for words, said in (
        (["quantised-pretraining"], "did you mean 'quantized-pretraining'?"),
        ([NAME, "--quick", "--full"], "got both"),
        ([NAME, "--out", "sweep"], "holds a sweep; choose another folder for a study"),
        ([NAME, "--data", text], "its text at most 4 times, so it wants 131,072 tokens or more"),
        ([NAME, "--data", text, "--minutes", "2"], "minutes or more here"),
        ([NAME, "--data", text, "--minutes", "0"], "minutes above 0"),
        ([NAME, "--jobs", "0"], "jobs=0"),
    ):
        assert main(["study", *words]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        last = told.err.splitlines()[-1]
        assert last.startswith("pennyweight: ")
        assert said in last
    assert not Path("runs").exists()


def test_report_writes_a_study_again_that_has_trained_nothing_yet(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = conduct.named(NAME)
    whole = conduct.whole(chosen, chosen.scales["quick"], "stdlib")
    Path("o").mkdir()
    asked = {"study": NAME, "scale": "quick", "data": "stdlib", "minutes": None, "steps": whole.base.steps}
    asked |= {"seeds": [part.seeds for part in whole.parts], "left_out": "", "epochs": 0.12}
    Path("o/plan.json").write_text(json.dumps(asked))
    assert main(["report", "o"]) == 0
    assert capsys.readouterr().out == "o/report.html\n"
    told = json.loads(Path("o/study.json").read_text())
    assert (told["runs"], told["runs_ended"], told["controls_passed"]) == (75, 0, False)
    assert {claim["verdict"] for claim in told["claims"]} == {"cannot be told at this scale"}
    shutil.rmtree("o")


def test_ctrl_c_before_the_plan_stands_is_no_traceback(
    small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "prepare", stopped)
    assert main(["study", NAME, "--out", "o"]) == 130
    assert "nothing was done yet" in capsys.readouterr().err
    assert not Path("o").exists()
