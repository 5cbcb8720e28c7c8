"""The report of a sweep: one page that opens anywhere, and the same as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from pennyweight.experiments.markdown import bullets, code, grid, plain
from pennyweight.experiments.report import page
from pennyweight.experiments.results import Row
from pennyweight.experiments.sweep.facts import Map, SweepFacts, sweep_facts
from pennyweight.training import Run
from pennyweight.training.files import write_whole

FILES = "results.sqlite (table cells, view results) and results.json"


def write_report(rows: Sequence[Row], folder: Path, base: Run) -> Path:
    """Writes report.html and report.md of these cells into `folder`; returns the path of the page."""
    said = sweep_facts(rows, base, files=FILES)
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", page("sweep/sweep.html", said))
    return folder / "report.html"


def markdown(said: SweepFacts) -> str:
    """The whole report as text."""
    parts = [f"# {plain(said.title)}", plain(said.summary)]
    for section in said.sections:
        parts += ["## Cells", plain(section.summary), bullets(section.headlines), grid(section.comparison)]
        for one in section.maps:
            parts += [f"### Loss over {plain(one.down)} and {plain(one.across)} {plain(one.title)}".rstrip(), _map(one)]
        parts += ["### Every run", grid(section.runs)]
    if said.unfinished:
        parts += ["## Not finished", bullets(said.unfinished)]
    parts += ["## To reproduce", code(said.command), grid((("what", "value"), list(said.machine)))]
    parts.append(f"The same numbers for machines: {said.files}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _map(one: Map) -> str:
    header = (f"{one.down} \\ {one.across}", *one.columns)
    lines = [(name, *(" ".join(filter(None, (spot.loss, spot.cost))) for spot in spots)) for name, spots in one.lines]
    return grid((header, lines))
