"""The promise: a tiny model trains with every named recipe, on a CPU, in seconds."""

import json
import random
import subprocess
import sys

import pytest

from pennyweight.training import Data, Evaluation, Optimizer, Run, train

RECIPES = ["fp32", "bf16", "w8a8", "w8a8g8", "m8v8", "penny8", "penny4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences that a model can learn: every word announces the next."""
    folder = tmp_path_factory.mktemp("tiny")
    draw = random.Random(0)
    words = [f"w{number:02d}" for number in range(40)]
    rows = []
    for _ in range(60):
        place, line = draw.randrange(40), []
        for _ in range(120):
            line.append(words[place])
            place = (place * 7 + draw.randrange(2)) % 40
        rows.append(json.dumps({"text": " ".join(line)}))
    (folder / "text.jsonl").write_text("\n".join(rows))
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    gpt2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    (folder / "config.json").write_text(json.dumps(gpt2))
    return folder


def tiny(text, **changes):
    data = Data(source=str(text / "text.jsonl"), tokenizer="bpe-300", context=32, validation=0.1)
    run = {"model": str(text / "config.json"), "data": data, "steps": 30, "batch": 8, "optimizer": Optimizer(lr=1e-2)}
    return Run(**{**run, "evaluation": Evaluation(every=30, tokens=512), **changes})


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_learns(text, recipe, monkeypatch):
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(text / "cache"))
    result = train(tiny(text, recipe=recipe), progress=False)
    assert result.val_loss < 0.8 * result.initial_loss
    assert result.val_loss_plain < 0.8 * result.initial_loss
    assert result.val_loss_plain == pytest.approx(result.val_loss, rel=0.1)


def test_two_processes_with_one_seed_come_to_the_same_losses(text, monkeypatch):
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(text / "cache"))
    run = tiny(text, recipe="penny4", steps=3)
    here = train(run, progress=False)
    code = (
        "import json, sys, torch; torch.set_num_threads(1); from pennyweight.training import Run, train; "
        "print(json.dumps(train(Run.from_dict(json.loads(sys.argv[1])), progress=False).curve))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(run.to_dict())], capture_output=True, text=True, check=True
    )
    assert [tuple(pair) for pair in json.loads(done.stdout)] == here.curve
    assert train(tiny(text, recipe="penny4", steps=3, seed=1), progress=False).curve != here.curve
