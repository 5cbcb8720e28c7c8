"""Report: one page that says what each recipe costs, as a single HTML file that opens anywhere, and as Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pennyweight.experiments.answers import COMPARISON, write_answers
from pennyweight.experiments.facts import Facts, facts
from pennyweight.experiments.markdown import markdown
from pennyweight.experiments.results import DONE, Row, read, write
from pennyweight.training import load_run, read_ledger
from pennyweight.training.files import write_whole
from pennyweight.training.folder import LEDGER, RUN, check_writable
from pennyweight.training.folder import RESULT as RUN_RESULT

RESULTS = "results.json"  # what a comparison leaves in its folder
UNFINISHED = "unfinished"


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

    A comparison's rows are those of results.json, and what its run folders came to since, unfinished ones too.
    Errors: FileNotFoundError for a folder that is not there or holds no run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"report wants the folder of a run or of a comparison, but {str(folder)!r} is none")
    if is_single(folder):
        return [read_run(folder)]
    rows = read(folder / RESULTS) if (folder / RESULTS).is_file() else []
    for path in sorted((folder / "runs").glob("*/")):
        if not is_single(path):
            continue
        one = {**read_run(path), "folder": f"runs/{path.name}"}
        place = next((place for place, row in enumerate(rows) if run_of(row) == run_of(one)), len(rows))
        if place == len(rows) or one["status"] == DONE or rows[place].get("status") == UNFINISHED:
            rows[place : place + 1] = [one]
    if not rows:
        raise FileNotFoundError(f"report finds no run in {str(folder)!r} (no {RESULTS}, no {RUN})")
    return rows


def is_single(folder: Path) -> bool:
    """Whether a folder is that of a single run, finished or not."""
    return any((folder / name).is_file() for name in (RUN, RUN_RESULT))


def run_of(row: Row) -> tuple[str, int]:
    """Which run of a comparison a row tells of."""
    return str(row["recipe"]), int(row.get("seed") or 0)


def read_run(folder: Path) -> Row:
    """What a run came to, or how far it is. Errors: ValueError where a file is damaged."""
    path = folder / RUN_RESULT
    if not path.is_file():
        return _unfinished(folder)
    try:
        row = json.loads(path.read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(row, dict) or "recipe" not in row:
        raise ValueError(f"{path} is not the result of a run")
    return {"status": DONE, **row}


def _unfinished(folder: Path) -> Row:
    """How far a run is that has no result: what its ledger tells, and why it stopped where it diverged."""
    run = load_run(folder)
    lines = read_ledger(folder / LEDGER) if (folder / LEDGER).is_file() else []
    steps = [line for line in lines if line["kind"] == "step"]
    row = {"recipe": str(run.recipe), "seed": run.seed, "run": run.to_dict(), "folder": str(folder)}
    if lines and (last := lines[-1])["kind"] == "divergence":
        where = f"; first not finite: {last.get('where')}"
        row |= {"status": "diverged", "error": f"at step {last['step']} {last.get('what')}{where}"}
    else:
        row |= {"status": UNFINISHED, "error": f"step {steps[-1]['step'] if steps else 0} of {run.steps}"}
    return {**row, "steps": len(steps), "tokens": steps[-1].get("tokens") if steps else 0}


def write_report(rows: Sequence[Row], folder: Path) -> Path:
    """Writes report.html and report.md of these runs into `folder`, and comparison.json where they are a comparison.

    Returns the path of the page.
    """
    single = is_single(folder)
    if not single:
        write_answers(rows, folder)
    said = facts(rows, files=RUN_RESULT if single else f"{RESULTS} (the runs) and {COMPARISON} (what they say)")
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", html(said))
    return folder / "report.html"


def report(folder: Path | str) -> Path:
    """Builds report.html and report.md again from what stands in the folder of a comparison or of a single run.

    The results.json of a comparison is brought up to date with its run folders. Returns the path of the page.
    Errors: FileNotFoundError for a folder that holds no run; ValueError for damaged files.
    """
    folder = Path(folder)
    rows = rows_of(folder)
    check_writable(folder)
    if not is_single(folder):
        write(rows, folder / RESULTS)
    return write_report(rows, folder)
