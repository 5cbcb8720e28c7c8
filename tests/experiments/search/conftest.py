"""A run so small that it takes a second, and processes that are none: runs of a search trained here, at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.search import trainings
from pennyweight.training import Data, Evaluation, Run, train


@pytest.fixture(scope="session")
def cradle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config.json and a text, and the cache of their corpus."""
    folder = tmp_path_factory.mktemp("cradle")
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "text").mkdir()
    for name in range(40):
        lines = (f"the {name} bits of line {line} are written in {name * line} ways\n" for line in range(30))
        (folder / "text" / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def base(cradle: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(cradle / "cache"))
    data = Data(source=str(cradle / "text"), tokenizer="bpe-300", context=16)
    return Run(model=str(cradle / "config.json"), data=data, steps=16, batch=2, evaluation=Evaluation(tokens=256))


class Here:
    """Trains what is asked in this process; `trained` says what, in order."""

    trained: list[tuple[str, int]] = []

    def __init__(self, room: int) -> None:
        self._waiting: list[tuple[str, Run, Path]] = []

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        self._waiting.append((cell, run, folder))

    def ended(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        cell, run, folder = self._waiting.pop(0)
        Here.trained.append((str(run.recipe), run.seed))
        return [(cell, {"result": train(run, folder, progress=False).to_dict()})]

    def kill(self, cell: str) -> None:
        self._waiting = [one for one in self._waiting if one[0] != cell]

    def close(self, *, at_once: bool = False) -> list[tuple[str, dict[str, Any]]]:
        self._waiting.clear()
        return []


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[Here]:
    """The processes of this test are `Here`."""
    monkeypatch.setattr(trainings, "Processes", Here)
    monkeypatch.setattr(Here, "trained", [])
    return Here
