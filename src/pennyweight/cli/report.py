"""`pennyweight report`: the report of a comparison, sweep, search, study or run, built again from its folder."""

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Of a comparison, a sweep, a search, a study or a run.", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Write report.html and report.md again from what stands in FOLDER."""
    from pennyweight.experiments import report as reported
    from pennyweight.experiments import search
    from pennyweight.experiments.studies import is_study, write_study
    from pennyweight.experiments.sweep import is_sweep, rebuilt

    if is_study(folder):
        write_study(folder.absolute())
        page = folder / "report.html"
    else:
        build = search.rebuilt if search.is_search(folder) else rebuilt if is_sweep(folder) else reported
        page = build(folder)
    if json:
        print_json({"html": str(page), "markdown": str(page.with_suffix(".md"))})
    else:
        print(page)
