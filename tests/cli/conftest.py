"""A model so small, and a text so short, that a real run takes a second."""

import json
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a run that trains a real model on a real text in about a second."""
    folder = tmp_path_factory.mktemp("small")
    words = [
        "the",
        "a",
        "model",
        "reads",
        "writes",
        "few",
        "bits",
        "and",
        "says",
        "what",
        "each",
        "costs",
        "in",
        "loss",
    ]
    draw = random.Random(0)
    (folder / "text").mkdir()
    for name in range(40):
        lines = (" ".join(draw.choices(words, k=9)) for _ in range(30))
        (folder / "text" / f"{name}.txt").write_text("\n".join(lines))
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(shape))
    settings = ["data.tokenizer=bpe-300", "data.context=16", "batch=2", "evaluation.tokens=256"]
    return ["--model", str(folder / "config.json"), "--data", str(folder / "text"), "--set", *settings]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that the tests share, and a working folder of each test's own."""
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
