"""`pennyweight compare`: the same model on the same tokens, once for each recipe and seed, and a report."""

from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.arguments import check_no_setting, run_with
from pennyweight.cli.failures import FAILED
from pennyweight.cli.flags import Data, Folder, Json, Model, Settings, Steps
from pennyweight.cli.places import comparison_folder, resumable
from pennyweight.cli.terminal import print_json, print_table, print_text, tell_start

if TYPE_CHECKING:
    from pathlib import Path

    from pennyweight.experiments import Row

SPARE = ("difference", "perplexity", "verdict")  # columns that a narrow terminal can do without


def compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE]...", help="Names or notation; none: bf16 w8a8 w8a8g8 penny8.", show_default=False
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds 0 ... N-1, all recipes with each.")] = 1,
    out: Folder = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Train every recipe on equal tokens and say what each costs against the baseline: bf16, or else the first recipe.

    The same command goes on where it stopped.
    """
    tell_start()
    from pennyweight.experiments import DEFAULT_RECIPES, answers
    from pennyweight.experiments import compare as compared
    from pennyweight.training import Run

    check_no_setting(recipes or ())
    for setting in settings or ():
        if setting.partition("=")[0] in ("recipe", "seed"):
            raise ValueError(f"compare takes its recipes as arguments and its seeds by --seeds, got --set {setting}")
    base = run_with(Run(), model=model, data=data, steps=steps, settings=settings or ())
    folder = out or comparison_folder(base)
    with resumable(folder):
        rows = compared(recipes or DEFAULT_RECIPES, base, seeds=seeds, out=folder)
    if json:
        print_json({"runs": rows, "tables": answers(rows)})
    else:
        _print(rows, folder)
    if not any(row.get("status") == "finished" for row in rows) or any(row.get("status") == "failed" for row in rows):
        raise typer.Exit(FAILED)


def _print(rows: "list[Row]", folder: "Path") -> None:
    from pennyweight.experiments import comparisons

    for header, lines, sentences in comparisons(rows):
        left_out = print_table(header, lines, spare=[name for name in SPARE if name in header])
        for sentence in sentences:
            print_text(sentence)
        if left_out:
            print_text(f"No room here for {', '.join(left_out)}: see the report.")
        print()
    print(f"report: {folder / 'report.html'}")
