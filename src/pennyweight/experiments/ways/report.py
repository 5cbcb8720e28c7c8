"""The report of three ways: one page that opens anywhere, the same as Markdown, and the table for machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pennyweight.experiments.answers import COMPARISON
from pennyweight.experiments.markdown import bullets, code, grid, plain
from pennyweight.experiments.report import page
from pennyweight.experiments.results import Row, read
from pennyweight.experiments.ways.facts import WaysFacts, answers, ways_facts
from pennyweight.training import Run
from pennyweight.training.files import write_whole
from pennyweight.training.folder import RESULTS, WAYS, check_writable

FILES = f"{RESULTS} (every row) and {COMPARISON} (the table)"


def write_report(rows: Sequence[Row], folder: Path, plan: dict[str, Any]) -> Path:
    """Writes report.html, report.md and comparison.json of these rows into `folder`; returns the path of the page."""
    said = ways_facts(rows, plan, files=FILES)
    write_whole(folder / COMPARISON, json.dumps(answers(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", page("ways/ways.html", said))
    return folder / "report.html"


def rebuilt(folder: Path) -> Path:
    """Writes the report of three ways again from its results.json; returns the path of the page.

    Errors: FileNotFoundError where no row stands there yet; ValueError for damaged files.
    """
    check_writable(folder)
    if not (folder / RESULTS).is_file():
        raise FileNotFoundError(f"report finds no result in {str(folder)!r}: its ways were stopped before the first")
    return write_report(read(folder / RESULTS), folder, plan_of(folder))


def plan_of(folder: Path) -> dict[str, Any]:
    """What was asked of the three ways in a folder. Errors: ValueError where its file is damaged."""
    try:
        plan = json.loads((folder / WAYS).read_text(encoding="utf8"))
        Run.from_dict(plan["run"])
        return {name: plan[name] for name in ("run", "tune", "tune_lr", "rules", "start")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / WAYS} does not say what three ways were asked for: {error}") from None


def markdown(said: WaysFacts) -> str:
    """The whole report as text."""
    parts = [
        f"# {plain(said.title)}",
        plain(said.summary),
        bullets(said.headlines),
        "## The table",
        grid(said.comparison),
    ]
    parts += [bullets(said.notes), "## Every row", grid(said.runs)]
    parts += ["## To reproduce", code(said.command), grid((("what", "value"), list(said.machine)))]
    return "\n\n".join([*parts, f"The same numbers for machines: {said.files}."]) + "\n"
