"""`pennyweight ways`: recipes reached after training, from a checkpoint and from scratch, on one bf16 baseline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.arguments import check_no_setting, run_with
from pennyweight.cli.failures import FAILED
from pennyweight.cli.flags import Data, Folder, Json, Model, Settings, Steps, named_folder
from pennyweight.cli.places import resumable, ways_folder
from pennyweight.cli.terminal import print_json, print_table, print_text, tell_start

if TYPE_CHECKING:
    from pennyweight.experiments import Row

SPARE = ("weights as stored", "time", "difference", "verdict")


def ways(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE...", help="What the forward pass sees: w8, w4, w4a8 ...", show_default=False),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", parser=named_folder, show_default="trained here",
            help="The baseline: a finished bf16 run, or a comparison that holds some.",
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Seeds 0 ... N-1.", show_default="1, or all of --from")
    ] = None,
    tune: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the baseline's steps, trained on from its checkpoint; 0: none.")
    ] = 0.1,
    tune_lr: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the baseline's learning rate, at the top of that training.")
    ] = 0.1,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Of post-training: absmax, mse, percentile, gptq, gptq-mse.", show_default="all"
        ),
    ] = None,
    out: Folder = None,
    settings: Settings = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Reach every recipe by post-training, from a checkpoint and from scratch, and say what each way costs.

    The same command goes on where it stopped.
    """
    tell_start()
    from pennyweight.experiments.ways import answers
    from pennyweight.experiments.ways import ways as reached
    from pennyweight.nn.post_training import RULES
    from pennyweight.training import Run

    check_no_setting(recipes or ())
    for setting in settings or ():
        if setting.partition("=")[0] in ("recipe", "seed"):
            raise ValueError(f"ways takes its recipes as arguments and its seeds by --seeds, got --set {setting}")
    asked = start is None or any(one is not None for one in (model, data, steps)) or bool(settings)
    base = run_with(Run(), model=model, data=data, steps=steps, settings=settings or ()) if asked else None
    folder = out or ways_folder(base, start, tune, tune_lr)
    with resumable(folder):
        rows = reached(
            recipes or (), base, seeds=seeds, out=folder, start=start, tune=tune, tune_lr=tune_lr, rules=rule or RULES
        )
    if json:
        print_json({"rows": rows, "table": answers(rows)})
    else:
        _print(rows, folder)
    if any(row.get("status") == "failed" for row in rows):
        raise typer.Exit(FAILED)


def _print(rows: "list[Row]", folder: Path) -> None:
    from pennyweight.experiments.ways import comparison, summary

    header, lines = comparison(rows)
    left_out = print_table(header, lines, spare=SPARE)
    for sentence in summary(rows):
        print_text(sentence)
    if left_out:
        print_text(f"No room here for {', '.join(left_out)}: see the report.")
    print(f"\nreport: {folder / 'report.html'}")
