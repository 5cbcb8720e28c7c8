"""Results: what every side came to, as rows of plain values: bench.json, and what the table is made of."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pennyweight.experiments.bench.peak import Machine
from pennyweight.experiments.bench.rounds import Question, Timed, ratio

Row = dict[str, Any]  # group, what, side, status, note; seconds ... of a time, peak_bytes ... of a memory


def rows(question: Question, found: Sequence[Timed], machine: Machine | None) -> list[Row]:
    """A row a side: its seconds, work a second, times the first side's speed, share of the machine's peak."""
    baseline = found[0].seconds
    return [_row(question, timed, baseline, machine) for timed in found]


def _row(question: Question, timed: Timed, baseline: Sequence[float], machine: Machine | None) -> Row:
    row: Row = {"group": question.group, "what": question.what, "side": timed.side.name, "note": timed.note}
    if not timed.seconds:
        return {**row, "status": "absent" if timed.side.missing else "failed"}
    median = statistics.median(timed.seconds)
    row |= {"status": "measured", "seconds": timed.seconds, "median_seconds": median}
    row |= {"rate": question.work / median, "unit": question.unit}
    if baseline:
        row["speed"] = asdict(ratio(baseline, timed.seconds))
    peak = machine.of(timed.side.peak) if machine else None
    if peak:
        row["share_of_peak"] = row["rate"] / peak
    return row


def memory_row(what: str, side: str, bytes_: int, baseline: int) -> Row:
    """A side's peak resident set, and its share of the first side's."""
    row: Row = {"group": "memory", "what": what, "side": side, "note": "", "status": "measured"}
    return {**row, "peak_bytes": bytes_, "share": bytes_ / baseline}
