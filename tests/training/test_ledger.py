"""The ledger holds whole lines, and no step twice."""

import json

import pytest

from pennyweight.training import read_ledger
from pennyweight.training.ledger import Ledger


def test_a_line_is_json_with_kind_and_step(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.write("step", 1, loss=2.5, tokens=64)
        ledger.write("divergence", 2, loss=float("nan"))
        assert ledger.lines == 2
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"kind": "step", "step": 1, "loss": 2.5, "tokens": 64},
        {"kind": "divergence", "step": 2, "loss": None},
    ]


def test_a_line_is_on_the_file_before_the_next_begins(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.write("step", 1)
        assert path.read_bytes() == b'{"kind": "step", "step": 1}\n'


@pytest.mark.parametrize(("kept", "steps"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2, 3])])
def test_resuming_cuts_what_came_after_and_the_half_written_line(tmp_path, kept, steps):
    path = tmp_path / "ledger.jsonl"
    whole = b"".join(b'{"kind": "step", "step": %d}\n' % step for step in (1, 2, 3))
    path.write_bytes(whole + b'{"kind": "ste')
    assert [line["step"] for line in read_ledger(path)] == [1, 2, 3]
    with Ledger(path, lines=kept) as ledger:
        assert ledger.lines == len(steps)
        ledger.write("step", 7)
    assert [line["step"] for line in read_ledger(path)] == [*steps, 7]


def test_without_a_file_lines_are_only_counted():
    with Ledger(None) as ledger:
        ledger.write("step", 1)
        ledger.sync()
    assert ledger.lines == 1
