"""Looking at a training changes no number of it, and what was seen stands in its ledger."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pennyweight.analysis import Look
from pennyweight.analysis.watch import Watch
from pennyweight.training import Diagnosis, train
from pennyweight.training.checkpoint import load, newest
from pennyweight.training.tensors import apart

# what torch says of itself while it compiles
QUIET = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
Small = Callable[..., Any]
OFF = Diagnosis(every=0, fidelity_every=0)
ON = Diagnosis(every=1, fidelity_every=2, sharpness_every=3)


def state_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every tensor of the last checkpoint, and its plain numbers that are no times."""
    path, _ = newest(folder / "checkpoints")
    assert path is not None
    saved = load(path)
    tensors = dict(saved.model)
    apart(saved.optimizer, tensors)
    timed = ("seconds", "step_seconds", "diagnosis_seconds", "peak_memory_bytes")
    heard = ("guard", "alarmed", "sound")  # what the guard makes of looks, and says, is no part of the training
    progress = {name: value for name, value in saved.state["progress"].items() if name not in (*timed, *heard)}
    return tensors, {"progress": progress, "noise": saved.state["noise"], "sampler": saved.state["sampler"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "penny4"},
        {"recipe": "penny8-nomaster", "gradients": "freed", "clip_by": "previous"},
        pytest.param({"recipe": "bf16"}, marks=pytest.mark.long),
        pytest.param({"recipe": "penny8k8"}, marks=pytest.mark.long),
        pytest.param({"recipe": "paper-w8a8g8", "accumulate": 2}, marks=pytest.mark.long),
        pytest.param({"recipe": "paper-v8"}, marks=pytest.mark.long),
        pytest.param({"recipe": "penny8", "compile": True}, marks=[pytest.mark.long, *QUIET]),
    ],
    ids=lambda changes: changes["recipe"] + "-compiled" * ("compile" in changes),
)
def test_a_training_that_is_looked_at_comes_out_bit_for_bit_the_same(
    small: Small, tmp_path: Path, changes: dict[str, Any]
) -> None:
    for name, diagnosis in (("off", OFF), ("on", ON)):
        train(small(**changes, diagnosis=diagnosis), tmp_path / name, progress=False)
    (off, off_numbers), (on, on_numbers) = (state_of(tmp_path / name) for name in ("off", "on"))
    assert on.keys() == off.keys()
    for name, tensor in off.items():
        assert torch.equal(on[name], tensor), name
    assert on_numbers == off_numbers


def test_each_look_is_one_line_of_the_ledger_and_its_time_is_counted(small: Small, tmp_path: Path) -> None:
    result = train(small(recipe="penny8", steps=7, diagnosis=ON), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "diagnosis"]
    assert [line["step"] for line in found] == list(range(1, 8))
    layers = {f"transformer.h.{block}.{name}" for block in range(2) for name in
              ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
    second = Look.from_line(found[1])
    assert layers <= second.measures.keys()
    for layer in layers:
        numbers = second.measures[layer]
        for name in ("x.db", "w.db", "g.db", "gt.db", "output.db", "grad_input.db", "grad_weight.db", "m.db", "v.db"):
            assert 20 < numbers[name] < 60, (layer, name)  # eight bits leave some 40 dB
        assert numbers["v.zero"] == 0
        assert 0.9 < numbers["gradient.cosine"] <= 1
        assert 0 <= numbers["w.swallowed"] <= 1
        assert len(second.top[layer]) == 3
    assert [("gradient.cosine" in line["measures"]) for line in found] == [step % 2 == 0 for step in range(1, 8)]
    assert ["sharpness" in line for line in found] == [step % 3 == 0 for step in range(1, 8)]
    spent = sum(line["seconds"] + line.get("sharpness_seconds", 0.0) for line in found)
    assert spent - 0.01 <= result.diagnosis_seconds < result.seconds


def test_looking_is_no_part_of_the_time_of_a_step(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("before", "after"):
        true = getattr(Watch, name)
        monkeypatch.setattr(Watch, name, lambda *given, true=true: (time.sleep(2.0), true(*given))[1])
    run = small(recipe="bf16", steps=2, diagnosis=Diagnosis(every=2, fidelity_every=0))
    train(run, tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    looked_at = next(line for line in lines if line["kind"] == "step" and line["step"] == 2)
    assert looked_at["tokens_per_second"] > run.tokens_per_step / 2.0


def test_nothing_is_looked_at_where_nobody_asked(small: Small, tmp_path: Path) -> None:
    result = train(small(recipe="penny8", diagnosis=OFF), tmp_path, progress=False)
    assert result.diagnosis_seconds == 0
    assert '"diagnosis"' not in (tmp_path / "ledger.jsonl").read_text()
