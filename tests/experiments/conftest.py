"""Rows as results.json holds them, made by hand, and a trainer that computes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pennyweight.training import Run

Row = dict[str, Any]


@pytest.fixture
def row() -> Callable[..., Row]:
    """A finished run; every field can be given."""

    def make(recipe: str = "bf16", seed: int = 0, val_loss: float = 4.0, **fields: Any) -> Row:
        run = Run(recipe=recipe, seed=seed, steps=10).to_dict() if fields.pop("with_run", True) else None
        return {
            "recipe": recipe,
            "seed": seed,
            "val_loss": val_loss,
            "val_loss_plain": val_loss,
            "perplexity": 54.6,
            "bits_per_byte": 1.2,
            "tokens": 40960,
            "steps": 10,
            "tokens_per_second": 1000.0,
            "peak_memory_bytes": 100 * 2**20,
            "seconds": 41.0,
            "initial_loss": 8.3,
            "status": "finished",
            "data_hash": "d" * 64,
            "folder": f"runs/{recipe}-seed{seed}",
            "parameters": 100,
            "parameters_non_embedding": 60,
            "memory": {
                "weights": {"predicted": 2**20, "measured": 2**20},
                "states": {"predicted": 2 * 2**20, "measured": 2 * 2**20},
            },
            "curve": [[step, 8.3 - step * 0.4] for step in range(1, 11)],
            "validation": [[0, 8.3], [5, 6.0], [10, val_loss]],
            "four_bit_share": {},
            "eight_bit_share": {},
            "converted": [],
            "left": [],
            "run": run,
            "machine": {"processor": "a processor", "memory_bytes": 2**30},
            "versions": {"torch": "2.13.0"},
            **fields,
        }

    return make


@pytest.fixture
def trained(row: Callable[..., Row]) -> Callable[[Run, Path, bool], dict[str, Any]]:
    """A trainer that writes a run folder as training does, with a loss that the recipe's name decides."""
    import json

    def trainer(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        name = str(run.recipe)
        made = row(name, run.seed, 4.0 + 0.01 * len(name), run=run.to_dict(), with_run=False, folder=str(folder))
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"run": run.to_dict(), "data_hash": made["data_hash"]}))
        (folder / "result.json").write_text(json.dumps(made))
        return {"result": made}

    return trainer
