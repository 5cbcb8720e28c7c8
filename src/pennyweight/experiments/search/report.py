"""The report of a search: a page that opens anywhere, Markdown, JSON, and the run that replays."""

import json
import shutil
from pathlib import Path

from pennyweight.experiments.compare import folder_name
from pennyweight.experiments.markdown import code, grid, plain
from pennyweight.experiments.report import page
from pennyweight.experiments.results import read_run, write
from pennyweight.experiments.search.facts import SearchFacts, search_facts
from pennyweight.experiments.search.outcome import Outcome
from pennyweight.training.files import write_whole
from pennyweight.training.folder import RESULT, RESULTS, RUN, RUNS, check_writable

SAID = "search.json"  # what a search came to, for machines
FOUND = "found"  # the folder of the run.json that replays


def write_report(one: Outcome, folder: Path) -> Path:
    """Writes report.html and report.md of a search into `folder`; returns the path of the page."""
    said = search_facts(one)
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", page("search/search.html", said))
    return folder / "report.html"


def rebuilt(folder: Path) -> Path:
    """Writes the report of a search again from its search.json; returns the path of the page.

    Errors: FileNotFoundError where the search has not ended; ValueError for a damaged file.
    """
    check_writable(folder)
    return write_report(read_outcome(folder), folder)


def markdown(said: SearchFacts) -> str:
    """The whole report as text."""
    parts = [f"# {plain(said.title)}", plain(said.sentence), plain(said.spent)]
    parts += ["## On fresh seeds", grid(said.confirmed), "## Every trial", grid(said.trials)]
    parts += ["## Not trained", grid(said.spared)] if said.spared[1] else []
    parts += ["## Named recipes", grid(said.named), "## Sensitivity", grid(said.noise)]
    parts += ["## To reproduce", code("\n".join(filter(None, (said.command, said.replay))))]
    parts.append(f"The same numbers for machines: {said.files}.")
    return "\n\n".join(parts) + "\n"


def write_outcome(one: Outcome, out: Path) -> None:
    """Writes search.json, results.json, the report, and found/run.json. Errors: OSError (a full disk)."""
    rows = [
        {**read_run(path), "folder": f"{RUNS}/{path.name}"}
        for path in sorted((out / RUNS).glob("*/"))
        if (path / RESULT).is_file()
    ]
    write(rows, out / RESULTS)
    write_whole(out / SAID, json.dumps(one.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if one.answer is not None:
        (out / FOUND).mkdir(exist_ok=True)
        shutil.copyfile(out / RUNS / folder_name(one.answer.name, one.seeds[0]) / RUN, out / FOUND / RUN)
    write_report(one, out)


def read_outcome(out: Path) -> Outcome:
    """What a search came to. Errors: FileNotFoundError where it has not ended; ValueError for a damaged file."""
    if not (out / SAID).is_file():
        raise FileNotFoundError(f"the search in {out} has not ended yet: the command that began it goes on there")
    try:
        return Outcome.from_dict(json.loads((out / SAID).read_text(encoding="utf8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out / SAID} does not hold what a search came to: {error}") from None
