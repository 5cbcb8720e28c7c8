"""What a comparison says, for machines: strict JSON with the numbers behind each verdict."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments import answers, report
from pennyweight.experiments.results import write

Make = Callable[..., dict[str, Any]]


def test_each_recipe_tells_mean_deviation_interval_and_verdict(row: Make) -> None:
    rows = [row("bf16", seed, 4.0) for seed in (0, 1)]
    rows += [row("w8a8", 0, 4.04, tokens_per_second=500.0), row("w8a8", 1, 4.08, tokens_per_second=500.0)]
    rows += [{"recipe": "w8a8", "seed": 2, "status": "failed", "error": "no room"}]
    (told,) = answers(rows)
    assert (told["baseline"], told["tokens"], told["data_hash"]) == ("bf16", 40960, "d" * 64)
    bf16, w8a8 = told["recipes"]
    assert (bf16["cost"], bf16["verdict"]) == (None, "the baseline")
    assert (w8a8["recipe"], w8a8["seeds"], w8a8["unfinished"]) == ("w8a8", [0, 1], 1)
    assert w8a8["cost"]["values"] == pytest.approx([1.0, 2.0])  # percent of 4
    assert w8a8["cost"]["deviation"] == pytest.approx(math.sqrt(0.5))
    assert w8a8["cost"]["low"] == pytest.approx(1.5 - 12.706 * 0.5)  # t of 1 degree; 0.7071 / sqrt(2)
    assert w8a8["speed"]["mean"] == pytest.approx(-50)
    assert w8a8["headline"].endswith(f"{w8a8['verdict']}; 1 of its runs did not finish.")


def test_a_comparison_has_them_in_a_file(tmp_path: Path, row: Make) -> None:
    rows = [row("bf16"), row("w8a8", val_loss=4.02)]
    write(rows, tmp_path / "results.json")
    report(tmp_path)
    written = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [one["recipe"] for one in written[0]["recipes"]] == ["bf16", "w8a8"]
    assert written[0]["recipes"][1]["cost"]["low"] is None
