"""A model and a corpus so small that a run takes a second."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text.jsonl (about 20,000 words), config.json (2 layers of 64, context 32) and an own cache."""
    folder = tmp_path_factory.mktemp("nursery")
    write_nursery(folder)
    return folder


def write_nursery(folder: Path) -> None:
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(300)]
    weights = [1 / rank for rank in range(1, 301)]
    texts = [" ".join(draw.choices(words, weights, k=400)) for _ in range(50)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": 512}
    gpt2 |= {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(gpt2))


@pytest.fixture
def small(nursery: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a small run: small(recipe="penny8", steps=3, ...)."""
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(nursery / "cache"))
    from pennyweight.training import Data, Evaluation, Run

    def make(**changes: Any) -> Run:
        data = Data(source=str(nursery / "text.jsonl"), tokenizer="bpe-512", context=32, validation=0.1)
        settings = {"model": str(nursery / "config.json"), "data": data, "steps": 4, "batch": 2}
        return Run(**{**settings, "evaluation": Evaluation(tokens=256), **changes})

    return make


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
