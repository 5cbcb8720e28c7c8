"""`pennyweight report`: the report of a comparison or of a run, built again from its folder."""

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of a comparison or of a single run.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Write report.html and report.md again from what stands in FOLDER."""
    from pennyweight.experiments import report as reported

    page = reported(folder)
    if json:
        print_json({"html": str(page), "markdown": str(page.with_suffix(".md"))})
    else:
        print(page)
