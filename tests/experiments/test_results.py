"""Rows are written whole and read carefully."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.results import finite, read, write

Make = Callable[..., dict[str, Any]]
PROMISED = {
    "recipe", "seed", "val_loss", "perplexity", "tokens", "steps", "tokens_per_second", "peak_memory_bytes", "seconds",
}  # fmt: skip


def test_every_run_in_results_json_has_the_promised_keys_even_a_failed_one(tmp_path: Path, row: Make) -> None:
    write([row(), {"recipe": "w8a8", "seed": 1, "status": "failed"}], tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert [one["recipe"] for one in written] == ["bf16", "w8a8"]
    assert all(one.keys() >= PROMISED for one in written)


def test_numbers_that_are_not_finite_become_null_so_that_any_json_reader_reads_the_file(tmp_path: Path) -> None:
    write([{"recipe": "x", "val_loss": math.nan, "curve": [(1, math.inf), (2, 3.5)]}], tmp_path / "results.json")
    (one,) = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert one["val_loss"] is None
    assert one["curve"] == [[1, None], [2, 3.5]]


def test_plain_json_is_left_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "text"], "b": {"c": {}}}
    assert finite(value) == value


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"seed": 1}]'])
def test_a_file_that_is_no_results_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json"):
        read(tmp_path / "results.json")
