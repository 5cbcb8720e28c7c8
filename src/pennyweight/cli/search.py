"""`pennyweight search`: the cheapest recipe whose loss stays within a budget, searched by measurement and confirmed."""

from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.arguments import run_with
from pennyweight.cli.failures import FAILED, say
from pennyweight.cli.flags import Data, Folder, Json, Model, Settings, Steps
from pennyweight.cli.places import resumable, search_folder
from pennyweight.cli.terminal import print_json, print_table, print_text, tell_start

if TYPE_CHECKING:
    from pathlib import Path

    from pennyweight.experiments.search import Outcome


def search(
    loss_budget: Annotated[
        float, typer.Option("--loss-budget", metavar="SHARE", help="Of bf16's loss: 0.01 is one percent more.")
    ] = 0.01,
    minimise: Annotated[str, typer.Option(metavar="COST", help="memory, time or bits.")] = "memory",
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Candidates that are trained at most.")] = 24,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="After which no more is begun.", show_default="no limit")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Fresh ones that confirm the best.")] = 3,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Runs at once.", show_default="a core each, 4 at most; time: 1")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads of a run, kept with the search.", show_default="cores / jobs"),
    ] = None,
    out: Folder = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Find the cheapest recipe whose validation loss stays within a budget of bf16's, from all-bf16 down.

    A short bf16 run says what each component would lose in each format; Optuna proposes and halves the candidates; the
    cheapest within the budget is confirmed on fresh seeds, and the named recipes beside it. The same command goes on
    where it stopped. FOLDER/found/run.json replays the recipe; report.html shows cost against loss.
    """
    tell_start()
    from pennyweight.experiments.search import search as searched
    from pennyweight.experiments.search import totals
    from pennyweight.training import Run

    for setting in settings or ():
        if setting.partition("=")[0].partition(".")[0] == "recipe":
            raise ValueError(f"search finds the recipe itself, got --set {setting}")
    base = run_with(Run(), model=model, data=data, steps=steps, settings=settings or ())
    folder = out or search_folder(base, loss_budget, minimise)
    with resumable(folder):
        found = searched(
            base, loss_budget=loss_budget, minimise=minimise, trials=trials, minutes=minutes, seeds=seeds, out=folder,
            jobs=jobs, threads=threads,
        )  # fmt: skip
    if json:
        print_json(found.to_dict())
    else:
        _print(found, folder)
        print_text(totals(found) + ".")
    if found.answer is None:
        say(found.sentence)
        raise typer.Exit(FAILED)


def _print(found: "Outcome", folder: "Path") -> None:
    from pennyweight.experiments.search.facts import search_facts

    said = search_facts(found)
    for header, lines in (said.trials, said.confirmed):
        if lines:
            print_table(header, lines, spare=[name for name in ("each seed", "at step") if name in header])
    print_text(found.sentence)
    if found.answer is not None:
        print(f"replays: pennyweight train {folder / 'found' / 'run.json'}")
    print(f"report: {folder / 'report.html'}")
