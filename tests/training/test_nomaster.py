"""A run without master weights learns, says what was swallowed, and saves a model that any reader loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pennyweight.training import Checkpoint, Optimizer, read_ledger, train


def test_it_learns_what_the_run_with_masters_learns(small, tmp_path):
    runs = [
        small(recipe=name, steps=40, batch=8, optimizer=Optimizer(lr=3e-3)) for name in ("penny8", "penny8-nomaster")
    ]
    masters, codes = (train(run, tmp_path / run.recipe.name, progress=False) for run in runs)
    assert masters.val_loss < masters.initial_loss - 0.5
    assert codes.val_loss == pytest.approx(masters.val_loss, rel=0.02)  # measured: 0.3 %
    assert codes.val_loss_plain == pytest.approx(codes.val_loss, rel=0.01)  # activations unwritten
    shares = [line["swallowed_share"] for line in read_ledger(tmp_path / "penny8-nomaster" / "ledger.jsonl")
              if line["kind"] == "step"]  # fmt: skip
    assert all(0 < share < 1 for share in shares)
    assert codes.swallowed_share == pytest.approx(sum(shares) / 40)
    assert masters.swallowed_share is None
    assert "swallowed_share" not in (tmp_path / "penny8" / "ledger.jsonl").read_text()


def test_checkpoints_hold_codes_and_the_model_plain_weights(small, tmp_path):
    run = small(recipe="penny8-nomaster", steps=2, checkpoint=Checkpoint(every=1))
    train(run, tmp_path, progress=False)
    held = load_file(tmp_path / "checkpoints" / "step-000002" / "model.safetensors")
    plain = load_file(tmp_path / "model" / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc"
    assert f"{name}.weight" not in held
    assert held[f"{name}.weight_codes"].dtype == torch.int8
    assert {str(tensor.dtype) for tensor in plain.values()} == {"torch.float32"}
    assert torch.equal(plain[f"{name}.weight"], held[f"{name}.weight_codes"] * held[f"{name}.weight_scales"])
    assert not [key for key in plain if "codes" in key]


def test_a_run_with_masters_is_not_gone_on_with_without_them(small, tmp_path):
    run = small(recipe="penny8", steps=2, checkpoint=Checkpoint(every=1))
    train(run, tmp_path, progress=False)
    written = json.loads((tmp_path / "run.json").read_text())
    written["run"]["recipe"] = small(recipe="penny8-nomaster").to_dict()["recipe"]
    (tmp_path / "run.json").write_text(json.dumps(written))
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "result.json").unlink()
    with pytest.raises(ValueError, match="of another run.*penny8 is not penny8-nomaster"):
        train(small(recipe="penny8-nomaster", steps=2, checkpoint=Checkpoint(every=1)), tmp_path, progress=False)
