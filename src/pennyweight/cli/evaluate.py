"""`pennyweight eval`: loss and perplexity of a saved model on any text."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.failures import say
from pennyweight.cli.flags import DATA, Json
from pennyweight.cli.terminal import print_json, print_table, tell_start

if TYPE_CHECKING:
    from pennyweight.experiments import Evaluation

SECONDS = 5.0  # between two words about the progress


def evaluate(
    model_folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL_FOLDER", help="Of any transformers causal LM, or of a run.", show_default=False),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help=DATA, show_default="the validation set of the model's run")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Tokens a window.", show_default="the model's, at most 1024; the run's without --data"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a saved model on any text: nats a token, perplexity, bits a byte."""
    tell_start()
    from pennyweight.experiments import evaluate as evaluated

    told = evaluated(model_folder, data, context=context, progress=Progress())
    for name, why in told.left_out:
        say(f"left out {name}: {why}")
    if json:
        print_json(told.to_dict())
    else:
        _print(told)


class Progress:
    """Says on stderr how far it is, when something was done and the last word is some seconds old."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS or done == total:
            return
        self._last = now
        left = (now - self._began) * (total - done) / done
        say(f"eval: {done:,} of {total:,} tokens, {done / (now - self._began):,.0f} tokens/s, {left:.0f} s left")


def _print(told: "Evaluation") -> None:
    ends = f", {told.ends:,} of them end tokens" if told.ends else ""
    lines = [
        ("loss", f"{told.loss:.4f} nats a token, computed in {told.precision}"),
        ("perplexity", f"{told.perplexity:.3f}"),
        ("bits a byte", f"{told.bits_per_byte:.4f}"),
        ("tokens", f"{told.tokens:,} of {told.documents:,} document{'s' if told.documents != 1 else ''}{ends}"),
        ("context", f"{told.context:,}"),
    ]
    print_table(("", f"{told.model} on {told.data}"), lines)
