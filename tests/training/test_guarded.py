"""A guard that is off or warns changes no number; one that acts goes back, raises, and ends with a trained model."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pennyweight.training import Checkpoint, Diagnosis, Diverged, Guard, Run, read_ledger, train, with_settings
from pennyweight.training.gradient import Gradient

Small = Callable[..., Any]
ACT = Guard(mode="act")
OFTEN = Diagnosis(every=2, fidelity_every=0)


def lines_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_ledger(folder / "ledger.jsonl") if line["kind"] == kind]


def test_a_guard_that_warns_says_it_once_and_changes_no_number(small: Small, tmp_path: Path, caplog: Any) -> None:
    made = {}
    for mode in ("off", "warn"):
        run = small(recipe="paper-v8", steps=6, diagnosis=OFTEN, guard=Guard(mode=mode))
        made[mode] = train(run, tmp_path / mode, progress=False)
    off, warn = made["off"], made["warn"]
    assert (warn.curve, warn.validation, warn.val_loss_plain) == (off.curve, off.validation, off.val_loss_plain)
    tensors = [(tmp_path / mode / "model" / "model.safetensors").read_bytes() for mode in made]
    assert tensors[0] == tensors[1]
    assert lines_of(tmp_path / "off", "guard") == off.guard == []
    (told,) = lines_of(tmp_path / "warn", "guard")
    assert (told["step"], told["back"]) == (2, None)
    assert "moment v: share that became 0" in told["what"]
    assert "transformer.h.0.attn.c_attn" in told["blamed"]
    assert [record.message.partition(" the guard saw")[0] for record in caplog.records] == ["at step 2"]


@pytest.mark.parametrize("recipe", ["bf16", pytest.param("penny8-nomaster", marks=pytest.mark.long)])
def test_a_guard_that_hears_nothing_is_no_guard(small: Small, recipe: str) -> None:
    off, act = (
        train(small(recipe=recipe, steps=5, diagnosis=OFTEN, guard=Guard(mode=mode)), progress=False)
        for mode in ("off", "act")
    )
    assert (act.curve, act.validation, act.val_loss_plain, act.guard) == (
        off.curve,
        off.validation,
        off.val_loss_plain,
        [],
    )


def test_it_goes_back_to_the_start_where_nothing_is_kept_and_is_the_run_that_was_raised(small: Small) -> None:
    settings = {"steps": 5, "diagnosis": OFTEN}
    result = train(small(recipe="paper-v8", guard=ACT, **settings), progress=False)
    (told,) = result.guard
    assert (told["step"], told["back"], told["raised"], told["layers"]) == (2, 0, "v log8/block256", [])
    assert [step for step, _ in told["curve"]] == [1, 2]
    assert [step for step, _ in result.curve] == [1, 2, 3, 4, 5]
    changes = ["recipe.v=log8/block256", "recipe.name=paper-v8+v log8/block256"]
    raised = train(with_settings(small(recipe="paper-v8", **settings), changes), progress=False)
    assert (result.curve, result.validation) == (raised.curve, raised.validation)


def test_it_goes_back_to_a_checkpoint_from_before_the_trouble(small: Small, tmp_path: Path) -> None:
    run = small(
        recipe="bf16 until 4, then paper-v8",
        steps=8,
        checkpoint=Checkpoint(every=1, keep=1),
        diagnosis=OFTEN,
        guard=ACT,
    )
    result = train(run, tmp_path, progress=False)
    (told,) = lines_of(tmp_path, "guard")
    assert (told["step"], told["back"]) == (6, 3)  # what the look in step 4 saw was sound, so the 3 steps before were
    assert [line["step"] for line in lines_of(tmp_path, "step")] == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert [step for step, _ in result.curve] == list(range(1, 9))
    assert train(run, tmp_path, progress=False) == result


def blow(monkeypatch: pytest.MonkeyPatch, times: int, value: float, at: int = 5) -> None:
    """The loss of the first `times` passes of step number `at`, over all tries, is `value`."""
    whole, left = Gradient.loss, [times]

    def loss(self: Gradient, batch: torch.Tensor) -> torch.Tensor:
        made = whole(self, batch)
        conversion: Any = self.model.pennyweight_conversion
        if self.batches and conversion.counter.state()["step"] + 1 == at and left[0]:
            left[0] -= 1
            return made * value
        return made

    monkeypatch.setattr(Gradient, "loss", loss)


@pytest.mark.parametrize("gradients", [{}, {"gradients": "freed", "clip_by": "previous"}])
def test_a_number_that_is_none_sends_it_back_too(small: Small, monkeypatch: Any, gradients: dict[str, str]) -> None:
    blow(monkeypatch, 1, math.nan)
    result = train(small(recipe="m8v8", steps=6, guard=ACT, **gradients), progress=False)
    (told,) = result.guard
    assert (told["step"], told["back"]) == (5, 0)
    assert "the loss is nan" in told["what"]
    assert len(result.curve) == 6


def test_it_gives_up_after_so_many_rescues_and_where_nothing_is_left_to_raise(small: Small, monkeypatch: Any) -> None:
    blow(monkeypatch, 1000, math.nan)
    with pytest.raises(Diverged, match="at step 5 the loss is nan.*the guard has gone back 1 time and goes no more"):
        train(small(recipe="m8v8", steps=6, guard=Guard(mode="act", rescues=1)), progress=False)
    with pytest.raises(Diverged, match="at step 5 the loss is nan.*the guard finds nothing left to raise"):
        train(small(recipe="bf16", steps=6, guard=ACT), progress=False)


def test_losses_that_run_away_ask_for_a_look_and_send_it_back(small: Small, monkeypatch: Any, tmp_path: Path) -> None:
    whole = Gradient.loss

    def loss(self: Gradient, batch: torch.Tensor) -> torch.Tensor:
        made, conversion = whole(self, batch), self.model.pennyweight_conversion
        steps: Any = conversion.counter.state()["step"]  # type: ignore[reportAttributeAccessIssue]
        bad = self.batches and 12 <= steps < 16 and conversion.recipe.name == "m8v8"  # type: ignore[reportAttributeAccessIssue]
        return made * 2 if bad else made

    monkeypatch.setattr(Gradient, "loss", loss)
    diagnosis = Diagnosis(every=100, fidelity_every=0)
    run = small(recipe="m8v8", steps=18, guard=ACT, diagnosis=diagnosis, checkpoint=Checkpoint(every=5))
    result = train(run, tmp_path, progress=False)
    (told,) = result.guard
    assert (told["step"], told["back"]) == (15, 10)
    assert [step for step, _ in told["curve"]][-1] == 16  # the look in the step after the three losses
    assert "times their recent median or more" in told["what"]
    assert [line["step"] for line in lines_of(tmp_path, "diagnosis")][:2] == [10, 16]


def test_what_cannot_be_guarded_is_refused_in_a_sentence() -> None:
    for settings, sentence in (
        (["guard.mode=atc"], "guard.mode: .*'off', 'warn' or 'act', got 'atc'; did you mean 'act'"),
        (["guard.mode=act", "compile=true"], "Guard.mode='act' raises the precision .* compiled blocks cannot"),
        (["guard.mode=act", "diagnosis.every=0"], "Guard.mode='act' raises what the diagnosis blames, but"),
        (["guard.rescues=2"], "Guard.rescues is how often 'act' goes back, but mode is 'warn'"),
        (["guard.mode=act", "guard.rescues=0"], "rescues"),
        (["guard=act"], "Run.guard is a group of settings; set one of guard.mode, guard.rescues"),
    ):
        with pytest.raises(ValueError, match=sentence):
            with_settings(Run(), settings)
    assert Run().guard == Guard(mode="warn", rescues=4)
