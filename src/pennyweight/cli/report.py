"""`pennyweight report`: the report of a comparison, sweep, search, study or run, built again from its folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json

if TYPE_CHECKING:
    from collections.abc import Callable


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Of a comparison, a sweep, a search, a study, of ways, or of a run.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Write report.html and report.md again from what stands in FOLDER."""
    page = _builder(folder)(folder)
    if json:
        print_json({"html": str(page), "markdown": str(page.with_suffix(".md"))})
    else:
        print(page)


def _builder(folder: Path) -> "Callable[[Path], Path]":
    """What writes the report of what a folder holds; only that is imported."""
    from pennyweight.training.folder import PLAN, STORE, TRIALS, WAYS, mark_of

    mark = mark_of(folder)
    if mark == STORE:
        from pennyweight.experiments.sweep import rebuilt
    elif mark == TRIALS:
        from pennyweight.experiments.search import rebuilt
    elif mark == WAYS:
        from pennyweight.experiments.ways import rebuilt
    elif mark == PLAN:
        from pennyweight.experiments.studies import rebuilt
    else:
        from pennyweight.experiments import report as rebuilt
    return rebuilt
