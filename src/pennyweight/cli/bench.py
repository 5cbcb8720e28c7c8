"""`pennyweight bench`: how fast and how small this machine trains in few bits, side by side with its peers."""

from typing import Annotated

import typer

from pennyweight.cli.flags import Folder, Json
from pennyweight.cli.terminal import print_json, tell_start

ONLY = "products, layer, optimizer, step (gpt2, llama, compiled) or memory; several: with commas. None: all."


def bench(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GROUP[,GROUP]", help=ONLY, show_default=False)
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where everything is measured.")] = "cpu",
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", help="Rounds, in which every side is timed once.")
    ] = 20,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Of PyTorch.", show_default="its own")
    ] = None,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Measure products, layers, optimizers, training steps and memory on this machine, all sides in turn.

    Prints a Markdown table; --out keeps it as bench.md, with every number in bench.json.
    """
    tell_start()
    from pennyweight.experiments.bench import bench as measured
    from pennyweight.experiments.bench import markdown

    names = [name.strip() for text in only or () for name in text.split(",")]
    found = measured(names, device=device, repeats=repeats, threads=threads, out=out, progress=not json)
    if json:
        print_json(found)
    else:
        print(markdown(found), end="")
