"""A study of four arms so small that a run takes a second, and an engine that trains nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.studies import conduct
from pennyweight.experiments.studies import quantized_claims as judges
from pennyweight.experiments.studies.study import Arm, Claim, Part, Scale, Study
from pennyweight.experiments.sweep import conduct as cells
from pennyweight.recipes import recipe
from pennyweight.training import Checkpoint, Config, Data, Diagnosis, Evaluation, Optimizer, Run

SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
LOSSES = {"bf16": 4.0, "w2a2-control": 6.0, "w8": 4.001, "w4": 4.2}


def base(data: str, steps: int) -> Run:
    return Run(
        model="small", data=Data(source=data, tokenizer="bpe-300", context=16), steps=steps, batch=2,
        evaluation=Evaluation(every=steps, tokens=256), checkpoint=Checkpoint(every=5), tracker="none",
        diagnosis=Diagnosis(every=0, fidelity_every=0), config=Config(of="small", says=json.dumps(SHAPE)),
    )  # fmt: skip


def parts(run: Run, scale: str) -> tuple[Part, ...]:
    def arms(run: Run) -> tuple[Arm, ...]:
        told = {"bf16": "bf16", "int2": "w2a2-control", "w8": "w8", "w4": "w4"}
        made = tuple(Arm(name, replace(run, recipe=recipe(text))) for name, text in told.items())
        return (made[0], Arm("bf16 again", run, shift=100), *made[1:])

    slow = replace(run, optimizer=Optimizer(betas=(0.9, 0.999)))
    return Part("usual", arms(run), 5 if scale == "full" else 3), *(
        [Part("slow", arms(slow), 4)] if scale == "full" else []
    )


SMALL = Study(
    name="small",
    title="A small study",
    source="nobody",
    scales={"quick": Scale("quick", 40, 20, 3, 1.0), "full": Scale("full", 40, 20, 3, 2.0)},
    base=base,
    parts=parts,
    claims=(
        Claim("w8", "8-bit weights are as good", "p. 1", judges.as_good("w8")),
        Claim("w4", "4-bit weights are as good", "p. 2", judges.as_good("w4")),
    ),
    controls=(
        Claim("same", "equals are equal", "A/A", judges.same("bf16 again")),
        Claim("planted", "2 bits are worse", "planted", judges.costs("int2")),
    ),
    after=lambda folder: {"folder": folder.name},
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    """The small study, the only one there is."""
    monkeypatch.setattr(conduct, "STUDIES", (SMALL,))
    return SMALL


@pytest.fixture(scope="session")
def cradle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text of about 14,000 tokens, and the cache of its corpus."""
    folder = tmp_path_factory.mktemp("cradle")
    (folder / "text").mkdir()
    for name in range(40):
        lines = (f"the {name} bits of line {line} are written in {name * line} ways\n" for line in range(30))
        (folder / "text" / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def text(cradle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The data that the small study reads."""
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(cradle / "cache"))
    return str(cradle / "text")


class Told:
    """An engine whose runs end at once, with a loss that recipe and seed decide; it counts them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.trained: list[tuple[str, int]] = []
        self.stop_after = -1  # runs: then Ctrl-C
        self.losses = dict(LOSSES)
        self.row: Callable[..., dict[str, Any]]
        self._running: list[tuple[str, Run, Path]] = []

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        self._running.append((cell, run, folder))

    def ended(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        cell, run, folder = self._running.pop(0)
        name = str(run.recipe)
        self.trained.append((name, run.seed))
        loss = self.losses[name] + 0.0001 * ((7 * run.seed + len(name)) % 5)
        made = self.row(name, run.seed, loss, run=run.to_dict(), with_run=False, folder=str(folder), steps=run.steps)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"run": run.to_dict(), "data_hash": made["data_hash"]}))
        (folder / "result.json").write_text(json.dumps(made))
        return [(cell, {"result": made})]

    def close(self, *, at_once: bool = False) -> list[tuple[str, dict[str, Any]]]:
        self._running.clear()
        return []


@pytest.fixture
def engine(row: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Told:
    """The engine that studies of this test get."""
    one = Told(2)
    one.row = row

    def make(room: int) -> Told:
        one.room = room
        return one

    monkeypatch.setattr(cells, "Processes", make)
    return one
