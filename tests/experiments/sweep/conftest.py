"""A run so small that a cell takes a second, and an engine that computes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.sweep import conduct
from pennyweight.training import Data, Evaluation, Run

Answers = Callable[[Run, Path, bool], dict[str, Any]]


@pytest.fixture(scope="session")
def cradle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config.json and a text, and the cache of their corpus."""
    folder = tmp_path_factory.mktemp("cradle")
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
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
    return Run(
        model=str(cradle / "config.json"), data=data, steps=10, batch=2, evaluation=Evaluation(every=10, tokens=64)
    )


class Told:
    """An engine whose cells end at once with what `answers` says of them; it keeps what it was asked."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[Run] = []
        self.answers: Answers
        self._running: list[tuple[str, Run, Path]] = []

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        self.asked.append(run)
        self._running.append((cell, run, folder))
        assert len(self._running) <= self.room

    def ended(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        cell, run, folder = self._running.pop(0)
        return [(cell, self.answers(run, folder, False))]

    def close(self, *, at_once: bool = False) -> list[tuple[str, dict[str, Any]]]:
        died = {"status": "failed", "error": "the process of the run ended with signal SIGINT"}  # before it listened
        told: list[tuple[str, dict[str, Any]]] = [(cell, died) for cell, _, _ in self._running]
        self._running.clear()
        return told


@pytest.fixture
def engine(trained: Answers, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The engine that sweeps of this test get; `engine.answers` may be set."""
    one = Told(2)
    one.answers = trained

    def make(room: int) -> Told:
        one.room = room
        return one

    monkeypatch.setattr(conduct, "Processes", make)
    return one
