"""Answers: what each recipe costs and how sure that is, for machines: comparison.json and --json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pennyweight.experiments.results import Row, finite
from pennyweight.experiments.standings import Standing, Table, tables
from pennyweight.experiments.statistics import Spread
from pennyweight.experiments.wording import headline, summary
from pennyweight.training.files import write_whole

COMPARISON = "comparison.json"


def answers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object for each table of comparable runs, as strict JSON.

    It names its `data_hash`, `tokens`, `baseline` and `target` (a loss 2 % above the baseline's last), says its
    `summary`, and holds one object for each recipe: `recipe`, `seeds` (of the finished runs), `unfinished` (how many
    did not finish), `verdict` and `headline` in words, and as {values, mean, deviation, low, high} (a 95 % interval;
    null where it is unknown) `loss` in nats a token, `difference` in nats a token, `seconds` of training steps until
    the validation loss was `target`, and, in percent of the baseline's run of the same seed, `cost`, `memory`, `speed`
    and `delay` (of `seconds`).
    """
    return [_answer(table) for table in tables(rows)]


def _answer(table: Table) -> dict[str, Any]:
    told = {"data_hash": table.data_hash, "tokens": table.tokens, "baseline": table.baseline, "target": table.target}
    return {**told, "summary": summary(table), "recipes": [_standing(one, table.baseline) for one in table.standings]}


def _standing(one: Standing, baseline: str) -> dict[str, Any]:
    numbers = {"loss": one.loss, "difference": one.difference, "cost": one.cost, "memory": one.memory}
    numbers |= {"speed": one.speed, "seconds": one.seconds, "delay": one.delay}
    return {
        "recipe": one.recipe, "seeds": sorted(int(row.get("seed") or 0) for row in one.runs),
        "unfinished": len(one.failed), "verdict": one.verdict, "headline": headline(one, baseline),
        **{name: _spread(values) for name, values in numbers.items()},
    }  # fmt: skip


def _spread(values: Spread | None) -> dict[str, Any] | None:
    return None if values is None else finite(asdict(values))


def write_answers(rows: Sequence[Row], folder: Path) -> None:
    """Writes comparison.json into `folder`."""
    text = json.dumps(answers(rows), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / COMPARISON, text + "\n")
