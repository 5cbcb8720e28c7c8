"""Report: one page that says what each recipe costs, as a single HTML file that opens anywhere, and as Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pennyweight.experiments.facts import Facts, facts
from pennyweight.experiments.markdown import markdown
from pennyweight.experiments.results import Row, read, write
from pennyweight.training.files import write_whole
from pennyweight.training.folder import RESULT as RUN_RESULT
from pennyweight.training.folder import check_writable

RESULTS = "results.json"  # what a comparison leaves in its folder


def html(said: Facts) -> str:
    """The report as one self-contained page: no script, no font, no image from elsewhere; everything escaped."""
    # autoescape for every template, whatever its name: recipe names and paths are other people's text
    pages = Environment(
        loader=PackageLoader("pennyweight.experiments", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return pages.get_template("report.html").render(facts=said)


def rows_of(folder: Path) -> list[Row]:
    """The runs that stand in a folder: of a comparison, or the single run that it is.

    A comparison's rows are those of results.json, and what its run folders came to since.
    Errors: FileNotFoundError for a folder that is not there or holds no finished run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"report wants the folder of a run or of a comparison, but {str(folder)!r} is none")
    if (folder / RUN_RESULT).is_file():
        return [read_run(folder)]
    rows = read(folder / RESULTS) if (folder / RESULTS).is_file() else []
    for path in sorted((folder / "runs").glob(f"*/{RUN_RESULT}")):
        one = {**read_run(path.parent), "folder": f"runs/{path.parent.name}"}
        place = next((place for place, row in enumerate(rows) if run_of(row) == run_of(one)), len(rows))
        rows[place : place + 1] = [one]
    if not rows:
        raise FileNotFoundError(f"report finds no finished run in {str(folder)!r} (no {RESULTS}, no {RUN_RESULT})")
    return rows


def run_of(row: Row) -> tuple[str, int]:
    """Which run of a comparison a row tells of."""
    return str(row["recipe"]), int(row.get("seed") or 0)


def read_run(folder: Path) -> Row:
    """What a finished run came to. Errors: ValueError where the file is damaged."""
    path = folder / RUN_RESULT
    try:
        row = json.loads(path.read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(row, dict) or "recipe" not in row:
        raise ValueError(f"{path} is not the result of a run")
    return row


def write_report(rows: Sequence[Row], folder: Path) -> Path:
    """Writes report.html and report.md of these runs into `folder`; returns the path of the page."""
    said = facts(rows)
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", html(said))
    return folder / "report.html"


def report(folder: Path | str) -> Path:
    """Builds report.html and report.md again from what stands in the folder of a comparison or of a single run.

    The results.json of a comparison is brought up to date with its run folders. Returns the path of the page.
    Errors: FileNotFoundError for a folder that holds no finished run; ValueError for damaged files.
    """
    folder = Path(folder)
    rows = rows_of(folder)
    check_writable(folder)
    if not (folder / RUN_RESULT).is_file():
        write(rows, folder / RESULTS)
    return write_report(rows, folder)
