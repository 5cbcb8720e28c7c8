"""`pennyweight eval`: loss and perplexity of a saved model on any text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.failures import say
from pennyweight.cli.flags import DATA, Json
from pennyweight.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from pennyweight.experiments import Evaluation


def evaluate(
    model_folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL_FOLDER", help="Of any transformers causal LM, or of a run.", show_default=False),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help=DATA, show_default="the validation set of the model's run")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens a window.", show_default="the model's, at most 1024")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a saved model makes of a text: nats a token, perplexity, bits a byte."""
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils.logging import disable_progress_bar

    from pennyweight.experiments import evaluate as evaluated

    disable_progress_bar()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("eval", total=None)
        told = evaluated(
            model_folder,
            data,
            context=context,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for name, why in told.left_out:
        say(f"left out {name}: {why}")
    if json:
        print_json(told.to_dict())
    else:
        _print(told)


def _print(told: "Evaluation") -> None:
    lines = [
        ("loss", f"{told.loss:.4f} nats a token"),
        ("perplexity", f"{told.perplexity:.3f}"),
        ("bits a byte", f"{told.bits_per_byte:.4f}"),
        ("tokens", f"{told.tokens:,} of {told.documents:,} document{'s' if told.documents != 1 else ''}"),
        ("context", f"{told.context:,}"),
    ]
    print_table(("", f"{told.model} on {told.data}"), lines)
