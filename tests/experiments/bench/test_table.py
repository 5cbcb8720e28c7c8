"""The rows of the bench and the table made of them."""

import pytest

from pennyweight.experiments.bench.peak import Machine
from pennyweight.experiments.bench.results import memory_row, rows
from pennyweight.experiments.bench.rounds import Built, Question, Side, Timed
from pennyweight.experiments.bench.table import HEADER, markdown


def side(name: str, peak: str = "", missing: str | None = None) -> Side:
    return Side(name, lambda: Built(lambda: None), peak, missing)


SIDES = (side("bf16 F.linear", "bf16"), side("int8", "int8"), side("peer", missing="not installed"), side("broken"))
QUESTION = Question("products", "64 to 128", SIDES, 6e9, "operations")
FOUND = [
    Timed(SIDES[0], [2.0, 4.0, 6.0]),
    Timed(SIDES[1], [1.0, 2.0, 2.0], "a note"),
    Timed(SIDES[2], [], "not installed"),
    Timed(SIDES[3], [], "failed: no compiler"),
]
MACHINE = Machine("AMX", 12e9, 6e9)


def test_a_row_holds_time_rate_speed_and_share_of_the_peak() -> None:
    bf16, int8, _, _ = rows(QUESTION, FOUND, MACHINE)
    assert int8["seconds"] == [1.0, 2.0, 2.0]
    assert int8["median_seconds"] == 2.0
    assert (int8["rate"], int8["unit"]) == (3e9, "operations")
    assert int8["speed"] == {"median": 2.0, "low": 2.0, "high": 2.5}
    assert int8["share_of_peak"] == 0.25
    assert bf16["speed"]["median"] == 1.0
    assert bf16["share_of_peak"] == 0.25


def test_sides_without_seconds_stand_in_the_rows_with_the_reason() -> None:
    *_, absent, failed = rows(QUESTION, FOUND, MACHINE)
    assert (absent["status"], absent["note"]) == ("absent", "not installed")
    assert (failed["status"], failed["note"]) == ("failed", "failed: no compiler")
    assert "speed" not in absent


def test_without_a_measured_peak_there_is_no_share() -> None:
    assert all("share_of_peak" not in row for row in rows(QUESTION, FOUND, None))


def test_without_a_baseline_there_is_a_time_and_no_ratio() -> None:
    broken, int8 = rows(QUESTION, [Timed(SIDES[0], [], "failed: x"), FOUND[1]], None)
    assert broken["status"] == "failed"
    assert int8["median_seconds"] == 2.0
    assert "speed" not in int8


@pytest.fixture
def table() -> str:
    """The Markdown of the rows above and two of memory."""
    memory = [memory_row("gpt2", "bf16 autocast", 2_000_000_000, 2_000_000_000)]
    memory.append(memory_row("gpt2", "penny8", 900_000_000, 2_000_000_000))
    return markdown(
        {
            "date": "2026-11-21T02:00:00+00:00",
            "commit": "abc123",
            "machine": {"processor": "Xeon", "cores": 2, "system": "Linux"},
            "versions": {"torch": "2.13.0"},
            "doors": [{"operation": "int8 linear layer", "door": "AMX, compiled C++"}],
            "sizes": {"device": "cpu"},
            "threads": 2,
            "repeats": 3,
            "peak": {"instructions": "AMX", "int8": 1.3e13, "bf16": 6.9e12},
            "rows": [*rows(QUESTION, FOUND, MACHINE), *memory],
        }
    )


def test_the_table_has_a_line_a_side_and_as_many_cells_as_columns(table: str) -> None:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 + 2
    assert {line.count("|") for line in lines} == {len(HEADER) + 1}


def test_the_table_says_what_was_measured_and_where(table: str) -> None:
    assert "| products | 64 to 128 | int8 | 2,000 ms | 3.00 Gop/s | 2.00 x | 2.00 to 2.50 | 3 | 25% | a note |" in table
    assert "| peer |  |  |  |  |  |  | not installed |" in table
    assert "| memory | gpt2 | penny8 | 900 MB |  | 0.450 |" in table
    for told in ("Xeon, 2 cores, 2 threads", "torch 2.13.0", "AMX, compiled C++", "abc123", "13.00 Top/s"):
        assert told in table
