"""`pennyweight sweep`: a grid of components, bits, granularities, roundings and settings, with every seed."""

from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.arguments import run_with
from pennyweight.cli.failures import FAILED, REFUSED, say
from pennyweight.cli.flags import Data, Folder, Json, Model, Settings, Steps
from pennyweight.cli.places import resumable, sweep_folder
from pennyweight.cli.terminal import print_json, print_table, print_text, tell_start

if TYPE_CHECKING:
    from pathlib import Path

    from pennyweight.experiments import Row

SPARE = ("tokens/s", "peak memory", "seeds", "verdict")  # columns that a narrow terminal can do without
AXES = """\b
Axes (--grid AXIS=VALUE,VALUE ...):
weights activations gradients  none, bits or a format, then how, as in the notation: 8, 4b32, e4m3, 8ts
m v                            the moments of Adam: none, 8, 4 or a format
saved                          what else is kept for the backward pass: none, 8 ...
granularity                    of weights, activations, gradients: row tensor column blockN squareN mx nv
rounding                       of the same: nearest stochastic
weights.granularity ...        of one of them alone; also activations.rounding, m.granularity (tensor, blockN) ...
recipe                         whole recipes by name or notation; components then change them
PATH                           any setting of pennyweight train --help, as optimizer.lr=1e-3,3e-4 or
                               optimizer.betas=[0.9,0.95],[0.9,0.99]; the run's own gradients as run.gradients
"""


def _axes(texts: list[str] | None) -> list[str] | None:
    """The axes as they were typed. Errors: typer.BadParameter where one is no axis, such as the next flag."""
    for text in texts or ():
        if text.startswith("-") or not text.partition("=")[1]:
            raise typer.BadParameter(f"an axis is written AXIS=VALUE,VALUE, got {text!r}")
    return texts


def sweep(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=V,V ...", help="weights=none,8,4 activations=none,8 ...", show_default=False, callback=_axes
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds 0 ... N-1, all cells with each.")] = 1,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Cells at once; no number depends on it.", show_default="a core each, 4 at most"
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads of a cell, kept with the sweep.", show_default="cores / jobs"),
    ] = None,
    out: Folder = None,
    on: Annotated[str, typer.Option(metavar="ENGINE", help="processes, or ray: a Ray cluster.")] = "processes",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of the Ray cluster; auto finds one here.", show_default="local"),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells that failed again.")] = False,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Train every cell of a grid with every seed, and say what each costs against the baseline.

    The same command goes on where it stopped, also after a kill; another grid of the same base run adds its cells.
    FOLDER holds results.sqlite (pandas reads its view results), results.json and report.html.
    """
    tell_start()
    from pennyweight.experiments import CellsNotBuilt, answers
    from pennyweight.experiments import sweep as swept
    from pennyweight.experiments.sweep import labelled
    from pennyweight.training import Run

    for setting in settings or ():
        if setting.partition("=")[0] == "seed":
            raise ValueError(f"sweep takes its seeds by --seeds, got --set {setting}")
    base = run_with(Run(), model=model, data=data, steps=steps, settings=settings or ())
    folder = out or sweep_folder(base)
    try:
        with resumable(folder):
            rows = swept(
                grid or [], base, seeds=seeds, out=folder, jobs=jobs, threads=threads, on=on, address=address,
                retry=retry,
            )  # fmt: skip
    except CellsNotBuilt as error:
        for reason in error.reasons:
            say(reason)
        raise typer.Exit(REFUSED) from None
    if json:
        print_json({"runs": rows, "tables": answers(labelled(rows))})
    else:
        _print(rows, folder)
    if not any(row["status"] == "finished" for row in rows) or any(row["status"] == "failed" for row in rows):
        raise typer.Exit(FAILED)


def _print(rows: "list[Row]", folder: "Path") -> None:
    from pennyweight.experiments.sweep import comparisons

    for header, lines in comparisons(rows):
        left_out = print_table(header, lines, spare=[name for name in SPARE if name in header])
        if left_out:
            print_text(f"No room here for {', '.join(left_out)}: see the report.")
        print()
    print(f"report: {folder / 'report.html'}")
