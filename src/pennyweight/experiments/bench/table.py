"""Table: the bench as Markdown: what was measured where, then one line a side."""

from collections.abc import Mapping
from typing import Any

from pennyweight.experiments.bench.results import Row
from pennyweight.experiments.markdown import grid, plain

HEADER = (
    "group",
    "what",
    "side",
    "median",
    "rate",
    "against the first side",
    "quartiles",
    "rounds",
    "share of peak",
    "note",
)
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
UNITS = {"operations": "op/s", "parameters": " parameters/s", "tokens": " tokens/s"}


def markdown(found: Mapping[str, Any]) -> str:
    """All that `bench` found, as text that ends with a newline."""
    machine, peak = found["machine"], found["peak"]
    gpu = found["sizes"]["device"] == "cuda"
    door = next(door for door in found["doors"] if door["operation"].endswith("on a GPU") == gpu)
    head = [
        *([f"{machine['device']};"] if gpu else []),
        f"{machine['processor']}, {machine['cores']} cores, {found['threads']} threads, {machine['system']};",
        f"torch {found['versions']['torch']}; {door['operation']}: {door['door']};",
        f"commit {found['commit'] or 'unknown'}; {found['date']}.",
    ]
    if peak:
        told = [f"{kind} {_scaled(peak[kind])}op/s" for kind in ("int8", "bf16") if peak[kind]]
        head.append(f"Peak of {peak['instructions']} instructions: {' and '.join(told) or 'none'}.")
    told = (
        "Against the first side: how many times as fast, median and quartiles over the rounds (memory: its share).",
        "Sides of one piece of work are timed in turn, in one process.",
    )
    lines = [_line(row) for row in found["rows"]]
    return f"{plain(' '.join(head))}\n\n{grid((HEADER, lines))}\n\n{plain(' '.join(told))}\n"


def _line(row: Row) -> tuple[str, ...]:
    if row["status"] != "measured":
        return (row["group"], row["what"], row["side"], "", "", "", "", "", "", row["note"])
    if "peak_bytes" in row:
        median, rate, against = f"{row['peak_bytes'] / 1e6:,.0f} MB", "", f"{row['share']:.3f}"
        quartiles = rounds = ""
    else:
        median, rate = f"{1e3 * row['median_seconds']:,.4g} ms", f"{_scaled(row['rate'])}{UNITS[row['unit']]}"
        speed, rounds = row.get("speed"), str(len(row["seconds"]))
        against = f"{speed['median']:.2f} x" if speed else ""
        quartiles = f"{speed['low']:.2f} to {speed['high']:.2f}" if speed else ""
    share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
    return (row["group"], row["what"], row["side"], median, rate, against, quartiles, rounds, share, row["note"])


def _scaled(number: float) -> str:
    """A number of something a second, with three digits or more."""
    for size, letter in SCALES:
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:,.0f}"
