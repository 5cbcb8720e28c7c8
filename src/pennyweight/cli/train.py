"""`pennyweight train`: one run, from flags, from a run.json, or from where it stopped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.arguments import check_no_setting, run_with
from pennyweight.cli.failures import say
from pennyweight.cli.flags import Data, Folder, Json, Model, Settings, Steps, named_folder
from pennyweight.cli.places import interrupted, run_folder
from pennyweight.cli.terminal import print_json, print_table, tell_start

if TYPE_CHECKING:
    from pennyweight.training import Result, Run


def train(
    run_json: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN.JSON]", help="A run.json or a run folder to replay.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="What is written in how few bits.", show_default="bf16")
    ] = None,
    model: Model = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="A model or run folder whose weights training begins from; --model follows it.",
            show_default="fresh",
        ),
    ] = None,
    data: Data = None,
    steps: Steps = None,
    seed: Annotated[
        int | None, typer.Option(metavar="K", help="Decides weights, order of data and noise.", show_default="0")
    ] = None,
    out: Folder = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=named_folder, help="The run folder to go on in.", show_default=False),
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Train one model. The same command on the same folder goes on where it stopped."""
    tell_start()
    from pennyweight.experiments import report
    from pennyweight.training import Run
    from pennyweight.training import train as trained

    check_no_setting([str(run_json)] if run_json else [])
    base = _base(run_json, resume) or Run()
    run = run_with(
        base, recipe=recipe, model=model, data=data, weights=weights, steps=steps, seed=seed, settings=settings or ()
    )
    if resume is not None and out is not None and resume != out:
        raise ValueError(f"a run is resumed where it was, but --resume {resume} and --out {out} differ")
    folder = resume or out or run_folder(run)
    try:
        result = trained(run, folder, resume=resume is not None)
    except KeyboardInterrupt:
        say(interrupted(folder, f"to go on: pennyweight train --resume {folder}"))
        raise
    page = report(folder)
    if json:
        print_json(result.to_dict())
    else:
        _print(result, folder, page)


def _base(run_json: Path | None, resume: Path | None) -> "Run | None":
    """The run that a file or a folder describes; None where neither is named."""
    from pennyweight.training import load_run

    if run_json is not None and resume is not None:
        raise ValueError("a run is either replayed (RUN.JSON) or resumed (--resume), got both")
    named = run_json if resume is None else resume
    return None if named is None else load_run(named)


def _swallowed(share: float | None) -> list[tuple[str, str]]:
    """A line for a recipe without master weights."""
    return [] if share is None else [("swallowed", f"{share:.1%} of the numbers that a step should have moved")]


def _print(result: "Result", folder: Path, page: Path) -> None:
    from pennyweight.experiments import wording

    lines = [
        ("validation loss", f"{result.val_loss:.4f} nats a token, computed as the recipe does"),
        ("as saved", f"{result.val_loss_plain:.4f} nats a token, computed from model/ as plain transformers do"),
        ("perplexity", f"{result.perplexity:.2f}"),
        ("bits a byte", f"{result.bits_per_byte:.4f}"),
        ("tokens", f"{result.tokens:,} in {wording.duration(result.tokens / result.tokens_per_second)} of steps"),
        ("time", f"{wording.duration(result.seconds)} with evaluation"),
        ("tokens a second", f"{result.tokens_per_second:,.0f}"),
        ("peak memory", f"{wording.size(result.peak_memory_bytes)}: {wording.PEAK}"),
        *_swallowed(result.swallowed_share),
        ("model", str(folder / "model")),
        ("report", str(page)),
    ]
    print_table(("", f"{result.recipe}, seed {result.seed}"), lines)
