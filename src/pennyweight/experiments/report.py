"""Report: one page that says what each recipe costs, as a single HTML file that opens anywhere, and as Markdown."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pennyweight.experiments.answers import COMPARISON, write_answers
from pennyweight.experiments.facts import facts
from pennyweight.experiments.heat import seen_of
from pennyweight.experiments.markdown import markdown
from pennyweight.experiments.results import Row, is_single, rows_of, write
from pennyweight.training.files import write_whole
from pennyweight.training.folder import RESULT as RUN_RESULT
from pennyweight.training.folder import RESULTS, check_writable


def page(template: str, said: object, **more: object) -> str:
    """A template of ours filled with what it says, its `facts`, and more by name: one self-contained page.

    Everything is escaped, whatever the template's name is: recipe names and paths are other people's text. The page
    asks nobody for anything, and its policy lets a browser run our script alone, known by its hash.
    """
    pages = Environment(
        loader=PackageLoader("pennyweight.experiments", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    return pages.get_template(template).render(facts=said, **more)


def write_report(rows: Sequence[Row], folder: Path) -> Path:
    """Writes report.html and report.md of these runs into `folder`, and comparison.json where they are a comparison.

    Returns the path of the page.
    """
    single = is_single(folder)
    if not single:
        write_answers(rows, folder)
    files = RUN_RESULT if single else f"{RESULTS} (the runs) and {COMPARISON} (what they say)"
    said = facts(rows, files=files, seen=seen_of(rows, folder))
    write_whole(folder / "report.md", markdown(said))
    write_whole(folder / "report.html", page("report.html", said))
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
