"""Whole searches on a model so small that every run is really trained."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pennyweight.experiments import compare
from pennyweight.experiments.search import conduct, is_search, rebuilt, search, space, trying
from pennyweight.experiments.search.report import read_outcome
from pennyweight.experiments.search.trainings import Trainings
from pennyweight.training import Run, load_run, train

FEW = {
    **{name: ("none",) for name in space.OPTIONS},
    "weights": ("none", "8-nomaster"), "m": ("none", "8", "4"), "v": ("none", "8", "4"),
}  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of 17 candidates, named recipes of which two are cheaper than bf16."""
    monkeypatch.setattr(conduct, "OPTIONS", FEW)
    monkeypatch.setattr(space, "OPTIONS", FEW)
    monkeypatch.setattr(conduct, "names", lambda: ["bf16", "m8v8", "w2a2-control"])
    monkeypatch.setattr(trying, "IDLE", 3)


@pytest.mark.long
@pytest.mark.usefixtures("few")
def test_a_search_finds_confirms_writes_and_replays(base: Run, here: type, tmp_path: Path) -> None:
    out = tmp_path / "o"
    found = search(base, loss_budget=0.5, trials=4, seeds=2, out=out, jobs=1, threads=1, progress=False)
    # within a budget of half of the loss the cheapest of all is: it is tried first, and nothing else can be cheaper
    assert [trial.name for trial in found.trials if trial.trained] == ["w8m4v4-nomaster"]
    assert found.answer is not None
    assert found.answer.name == "w8m4v4-nomaster"
    assert found.beaten
    assert found.answer.cost < found.named_costs["m8v8"] < found.bf16_cost
    assert "w8m4v4-nomaster" in found.sentence
    assert "The cheapest named recipe within the budget: " in found.sentence
    assert here.trained == [
        ("bf16", 0), ("w8m4v4-nomaster", 0), ("bf16", 1), ("bf16", 2), ("w8m4v4-nomaster", 1), ("w8m4v4-nomaster", 2),
        *((found.named[-1].name, seed) for seed in (1, 2)),
    ]  # fmt: skip
    assert found.runs == 8
    assert found.tokens == 8 * 16 * 32 + 17 * 32  # the runs, and the steps of sensitivity with its look
    # the predicted bytes are those that a step really held
    assert sum(found.answer.measured.values()) == pytest.approx(found.answer.cost, rel=0.1)

    kept = json.loads((out / "runs" / "w8m4v4-nomaster-seed1" / "result.json").read_text())
    again = train(load_run(out / "found"), tmp_path / "again", progress=False)
    assert (again.val_loss, again.val_loss_plain) == (kept["val_loss"], kept["val_loss_plain"])
    assert [list(point) for point in again.curve] == kept["curve"]

    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert all(name in told for name in ("w8m4v4-nomaster", "m8v8") for told in (page, text))
    assert "<svg" in page
    assert "http://" not in page
    assert "https://" not in page
    assert read_outcome(out) == found
    (out / "report.html").unlink()
    assert rebuilt(out).read_text() == page

    here.trained.clear()
    assert search(base, loss_budget=0.5, trials=4, seeds=2, out=out, jobs=1, progress=False) == found
    assert here.trained == []


@pytest.mark.long
@pytest.mark.usefixtures("few")
def test_nothing_within_the_budget_is_said(base: Run, here: type, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trying, "counted_loss", lambda row: 2 * row["val_loss"])
    monkeypatch.setattr(conduct, "names", lambda: ["bf16"])
    found = search(base, loss_budget=1e-6, trials=2, seeds=1, out=tmp_path / "o", jobs=1, threads=1, progress=False)
    assert found.answer is None
    assert not found.beaten
    assert found.sentence.startswith("No recipe was confirmed within the budget of 0.0001 %")
    assert sum(trial.trained for trial in found.trials) == 2
    assert not (tmp_path / "o" / "found").exists()
    assert "bf16" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.usefixtures("few")
def test_another_search_or_a_run_in_the_folder_is_refused(base: Run, tmp_path: Path, monkeypatch) -> None:
    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "sensitivity", stopped)
    monkeypatch.setattr(Trainings, "all", stopped)
    out = tmp_path / "o"
    with pytest.raises(KeyboardInterrupt):  # as soon as it has begun
        search(base, loss_budget=0.5, out=out, jobs=1, threads=1, progress=False)
    train(base, out / "runs" / "bf16-seed0", progress=False)
    with pytest.raises(FileExistsError, match=r"loss_budget: 0\.5 is not 0\.2"):
        search(base, loss_budget=0.2, out=out, jobs=1, progress=False)
    with pytest.raises(FileExistsError, match="steps: 16 is not 24"):
        search(replace(base, steps=24), loss_budget=0.5, out=out, jobs=1, progress=False)
    with pytest.raises(ValueError, match="compute with 1 threads each, got threads=2"):
        search(base, loss_budget=0.5, out=out, jobs=1, threads=2, progress=False)
    with pytest.raises(FileExistsError, match="holds a single run"):
        search(base, loss_budget=0.5, out=out / "runs" / "bf16-seed0", progress=False)
    with pytest.raises(FileExistsError, match="holds a search"):
        compare(["bf16"], base, out=out, progress=False)
    assert is_search(out)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "search.sqlite").write_text("no database")
    with pytest.raises(ValueError, match="does not hold the trials of a search"):
        search(base, loss_budget=0.5, out=tmp_path / "broken", progress=False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"loss_budget": 0.0}, "0.01: one percent more"),
        ({"loss_budget": 2}, "did you mean 0.02?"),
        ({"loss_budget": float("nan")}, "got nan"),
        ({"minimise": "tiem"}, "did you mean 'time'?"),
        ({"minutes": 0}, "minutes above 0"),
        ({"minutes": float("nan")}, "minutes above 0"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(base: Run, tmp_path: Path, asked: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        search(base, **{"loss_budget": 0.01, **asked}, out=tmp_path / "o", progress=False)
    assert not (tmp_path / "o").exists()


def test_a_base_without_rungs_or_in_few_bits_is_refused(base: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take 8 steps or more"):
        search(replace(base, steps=7), loss_budget=0.1, out=tmp_path / "o", progress=False)
    with pytest.raises(ValueError, match="finds the recipe itself, got recipe=w8a8"):
        search(replace(base, recipe="w8a8"), loss_budget=0.1, out=tmp_path / "o", progress=False)


def test_without_optuna_it_says_what_to_install(base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'pennyweight\[search\]'"):
        search(base, loss_budget=0.01, out=tmp_path / "o", progress=False)
