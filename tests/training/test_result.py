"""What a run came to, as people and as files see it."""

import dataclasses
from typing import Any

from pennyweight.training import Result


def result(**fields: Any) -> Result:
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Result)}
    lists = {"curve": [(1, 5.0)] * 1000, "validation": [(0, 8.0), (1, 5.0)], "left": [("head", "why")]}
    return Result(**{**values, **lists, "recipe": "w8a8", "val_loss": 4.25, "folder": "runs/a", **fields})


def test_what_is_printed_of_a_result_fits_a_few_lines() -> None:
    shown = repr(result())
    assert len(shown) < 200
    assert shown.startswith("Result(recipe='w8a8', seed=0, val_loss=4.25,")
    assert "folder='runs/a'" in shown


def test_a_result_comes_back_from_its_dict() -> None:
    made = result(four_bit_share={"output": 0.5})
    assert Result.from_dict(made.to_dict()) == made
