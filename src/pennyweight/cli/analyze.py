"""`pennyweight analyze`: what the model of a run folder is like now, layer by layer, and how sharp its minimum is."""

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli.failures import say
from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json, print_table, tell_start


def analyze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.", show_default=False)],
    json: Json = False,
) -> None:
    """Look at the model in a run folder: tensors, products, gradients, sharpness; writes RUN/analysis.html."""
    tell_start()
    from pennyweight.experiments.analyze import PAGE
    from pennyweight.experiments.analyze import analyze as analyzed

    made = analyzed(run, tell=lambda told: say(f"analyze: {told}"))
    if json:
        print_json(made.to_dict())
        return
    header, lines = made.layers
    print_table(header[:-1], [line[:-1] for line in lines])
    sharp = made.now.sharpness
    told = f"m-sharpness {sharp['m_sharpness']:.4g}, largest eigenvalue {sharp['eigenvalue']:.4g}, by {sharp['by']}"
    print(f"{told}; {made.now.seconds:.1f} s for the layers, {made.now.sharpness_seconds:.1f} s for sharpness")
    print(run / PAGE)
