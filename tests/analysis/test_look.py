"""A look goes into a line of the ledger and comes back."""

import json
import math

import pytest

from pennyweight.analysis import MEASURES, Look


def test_a_look_comes_back_from_its_line_to_four_digits() -> None:
    measures = {"a": {"x.db": 41.23456, "w.zero": 0.25}, "b": {"x.db": -math.inf, "w.zero": math.nan}}
    seen = Look(50, measures, {"a": [(7, 12.34567)]}, {"loss": 1.5}, 0.25, 2.0)
    line = {"kind": "diagnosis", "step": 50, **json.loads(json.dumps(seen.to_line(), allow_nan=False))}
    again = Look.from_line(line)
    assert again.measures == {"a": {"x.db": 41.23, "w.zero": 0.25}, "b": {"x.db": -999.0}}
    assert (again.step, again.top, again.sharpness) == (50, {"a": [(7, 12.35)]}, {"loss": 1.5})
    assert (again.seconds, again.sharpness_seconds) == (0.25, 2.0)


def test_every_measure_says_what_it_is_and_which_way_is_worse() -> None:
    assert {"x.db", "gt.zero", "grad_weight.bias", "v.stalled", "w.swallowed", "gradient.cosine"} <= MEASURES.keys()
    assert all(said and worse in (-1, 0, 1) for said, worse in MEASURES.values())


def test_an_unknown_measure_is_not_lost_without_a_word() -> None:
    with pytest.raises(KeyError):
        Look(1, {"a": {"x.dezibel": 1.0}}).to_line()
