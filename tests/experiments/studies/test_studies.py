"""A study from what is asked to its page: trained once, resumed, enlarged, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.studies import conduct, named, study, write_study
from pennyweight.experiments.studies.study import FAILS, HOLDS, Study
from pennyweight.training.folder import claimed


def asked(small: Study, text: str, out: Path, **more: Any) -> conduct.Outcome:
    return study(small, data=text, out=out, progress=False, **more)


def test_a_study_judges_its_claims_and_its_page_says_the_verdicts_first(
    small: Study, text: str, engine: Any, tmp_path: Path
) -> None:
    found = asked(small, text, tmp_path / "o").findings
    assert len(engine.trained) == 15
    assert engine.trained[:5] == [("bf16", 0), ("bf16", 100), ("w2a2-control", 0), ("w8", 0), ("w4", 0)]
    assert found.passed
    assert [(one.claim.name, one.verdict) for one in found.claims] == [("w8", HOLDS), ("w4", FAILS)]
    write_study(tmp_path / "o")
    told = json.loads((tmp_path / "o" / "study.json").read_text())
    assert told["controls_passed"]
    assert [one["verdict"] for one in told["claims"]] == [HOLDS, FAILS]
    assert told["claims"][1]["effects"][0]["values"]["low"] > 0.19
    assert told["tokens"] == 40 * 32
    page, words = ((tmp_path / "o" / name).read_text() for name in ("report.html", "report.md"))
    assert page.index("does not hold") < page.index("Arms at")
    assert "Claims that hold: 1; that do not: 1; that cannot be told at this scale: 0" in words
    assert "passed its own controls" in words
    assert json.loads((tmp_path / "o" / "afterwards.json").read_text()).keys() == {
        row["cell"] for row in told_rows(tmp_path / "o") if row["axes"] == {"arm": "bf16"}
    }


def told_rows(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "sweep" / "results.json").read_text())


def test_a_study_that_was_stopped_goes_on_and_reports_on_the_way(
    small: Study, text: str, engine: Any, tmp_path: Path
) -> None:
    engine.stop_after = 7
    with pytest.raises(KeyboardInterrupt):
        asked(small, text, tmp_path / "o")
    one = write_study(tmp_path / "o")
    assert one.done == 7
    assert not one.findings.passed
    assert "8 runs are still to come" in (tmp_path / "o" / "report.md").read_text()
    engine.stop_after = -1
    assert asked(small, text, tmp_path / "o").findings.passed
    assert len(engine.trained) == len(set(engine.trained)) == 15


def test_full_adds_seeds_and_parts_to_what_quick_has_done(small: Study, text: str, engine: Any, tmp_path: Path) -> None:
    asked(small, text, tmp_path / "o")
    one = asked(small, text, tmp_path / "o", scale="full")
    assert len(engine.trained) == 5 * 5 + 5 * 4
    assert [found.part for found in one.findings.claims] == ["usual", "usual", "slow", "slow"]
    assert [len(evidence.losses("bf16")) for _, evidence in one.evidence] == [5, 4]
    write_study(tmp_path / "o")
    assert "Verdicts at slow" in (tmp_path / "o" / "report.html").read_text()


def test_a_control_that_fails_leaves_every_verdict_unsupported(
    small: Study, text: str, engine: Any, tmp_path: Path
) -> None:
    engine.losses["w2a2-control"] = 4.0
    asked(small, text, tmp_path / "o")
    write_study(tmp_path / "o")
    words = (tmp_path / "o" / "report.md").read_text()
    assert "has not passed its own controls" in words
    assert "unsupported: a control failed (holds)" in words


def test_a_folder_of_something_else_is_refused(small: Study, text: str, engine: Any, tmp_path: Path) -> None:
    for name, what in (("results.sqlite", "a sweep"), ("run.json", "a single run"), ("results.json", "a comparison")):
        folder = tmp_path / what.replace(" ", "-")
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(FileExistsError, match=what):
            asked(small, text, folder)
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"study": "lookbehind"}))
    with pytest.raises(FileExistsError, match="holds the study lookbehind, not small"):
        asked(small, text, folder)
    (folder / "plan.json").write_text("[")
    with pytest.raises(ValueError, match="not the plan of a study"):
        asked(small, text, folder)
    assert not engine.trained


def test_other_data_in_one_folder_is_refused(small: Study, text: str, engine: Any, tmp_path: Path) -> None:
    asked(small, text, tmp_path / "o")
    shutil.copytree(text, tmp_path / "texts")
    with pytest.raises(FileExistsError, match="of other runs"):
        asked(small, str(tmp_path / "texts"), tmp_path / "o")


def test_a_text_that_would_be_read_too_often_is_refused(small: Study, text: str, engine: Any, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for name in ("3", "7", "11"):
        shutil.copy(Path(text) / f"{name}.txt", tmp_path / "text")
    long = conduct.planned(small, small.scales["quick"], "x", 4000, [3], "")
    assert long.tokens == 128_000
    with pytest.raises(ValueError, match="at most 4 times, so it wants 32,000 tokens or more"):
        conduct.check_epochs(long, conduct.prepare(str(tmp_path / "text"), tokenizer="bpe-300", validation=0.05))


def test_unknown_names_are_answered_with_the_nearest(small: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'small'"):
        named("smal")
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        study(small, scale="quik", out=tmp_path / "o")
    with pytest.raises(ValueError, match="jobs=0"):
        study(small, jobs=0, out=tmp_path / "o")


def test_only_one_study_at_a_time_writes_in_a_folder(small: Study, text: str, engine: Any, tmp_path: Path) -> None:
    out = tmp_path / "o"
    asked(small, text, out)
    plan = (out / "plan.json").read_text()
    with claimed(out, "study runs"), pytest.raises(FileExistsError, match="another study runs in .* right now"):
        asked(small, text, out, scale="full")
    assert (out / "plan.json").read_text() == plan


@pytest.mark.parametrize("change", [{"scale": None}, {"steps": "40"}, {"seeds": 3}, {"left_out": None}])
def test_a_damaged_plan_is_one_sentence(
    small: Study, text: str, engine: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "o"
    asked(small, text, out)
    plan = json.loads((out / "plan.json").read_text()) | change
    (out / "plan.json").write_text(json.dumps({name: value for name, value in plan.items() if value is not None}))
    for again in (lambda: asked(small, text, out), lambda: write_study(out)):
        with pytest.raises(ValueError, match=r"plan\.json is not the plan of a study"):
            again()


@pytest.mark.parametrize("damaged", ["", "[]", '{"a":'])
def test_what_was_measured_afterwards_is_measured_again_where_its_file_is_damaged(
    small: Study, text: str, engine: Any, tmp_path: Path, damaged: str
) -> None:
    out = tmp_path / "o"
    asked(small, text, out)
    before = (out / "afterwards.json").read_text()
    (out / "afterwards.json").write_text(damaged)
    write_study(out)
    asked(small, text, out)
    assert (out / "afterwards.json").read_text() == before
