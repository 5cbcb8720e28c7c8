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
    from pennyweight.experiments import report as of_runs
    from pennyweight.experiments import search, studies, ways
    from pennyweight.experiments.sweep import is_sweep, rebuilt

    kinds = ((studies.is_study, studies.rebuilt), (search.is_search, search.rebuilt), (ways.is_ways, ways.rebuilt),
             (is_sweep, rebuilt))  # fmt: skip
    page = next((build for is_one, build in kinds if is_one(folder)), of_runs)(folder)
    if json:
        print_json({"html": str(page), "markdown": str(page.with_suffix(".md"))})
    else:
        print(page)
