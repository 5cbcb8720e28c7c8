"""`pennyweight study`: each paper's claims measured again, and whether they hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli.failures import FAILED, REFUSED, say
from pennyweight.cli.flags import Data, Folder, Json
from pennyweight.cli.places import HOME, resumable, slug
from pennyweight.cli.terminal import print_json, print_table, print_text, tell_start

if TYPE_CHECKING:
    from pennyweight.experiments.studies import Outcome

LIST = "list"


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Its name, or list.", show_default=False)] = LIST,
    quick: Annotated[bool, typer.Option("--quick", help="About half an hour on two cores; the usual one.")] = False,
    full: Annotated[bool, typer.Option("--full", help="More seeds and both beta2: an hour or more.")] = False,
    data: Data = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Time to take: fewer seeds first, then fewer tokens.", show_default="as it takes"
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runs at once; no number depends on it.", show_default="a core each, 4 at most"),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", help="Threads of a run.")] = 1,
    out: Folder = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run what failed again.")] = False,
    json: Json = False,
) -> None:
    """Measure a paper's claims again, and say of each: holds, does not hold, or cannot be told at this scale.

    The same command goes on where it stopped, also after a kill. FOLDER holds study.json, report.html and report.md.
    """
    tell_start()
    from pennyweight.experiments import CellsNotBuilt
    from pennyweight.experiments.studies import named, to_dict, write_study
    from pennyweight.experiments.studies import study as studied
    from pennyweight.training.folder import PLAN, mark_of

    if name == LIST:
        _print_list(json)
        return
    if quick and full:
        raise ValueError("a study is --quick or --full, got both")
    chosen, scale = named(name), "full" if full else "quick"
    folder = (out or _folder(chosen.name, scale, data)).absolute()
    try:
        with resumable(folder):
            studied(
                chosen, scale=scale, data=data or "stdlib", minutes=minutes, jobs=jobs, threads=threads, out=folder,
                retry=retry,
            )  # fmt: skip
    except CellsNotBuilt as error:
        for reason in error.reasons:
            say(reason)
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        if mark_of(folder) == PLAN:
            write_study(folder)
        raise
    one = write_study(folder)
    if json:
        print_json(to_dict(one))
    else:
        _print(one, folder)
    if not one.findings.passed or any(row["status"] == "failed" for row in one.rows):
        raise typer.Exit(FAILED)


def _folder(name: str, scale: str, data: str | None) -> Path:
    """runs/study-<name>-<scale>, with the data's name where it is not the usual one."""
    return HOME / slug("-".join(filter(None, ["study", name, scale, Path(data).name if data else ""])))


def _print_list(json: bool) -> None:
    from pennyweight.experiments.studies import STUDIES

    if json:
        print_json([
            {"name": one.name, "source": one.source,
             "minutes": {name: scale.minutes for name, scale in one.scales.items()},
             "claims": [{"name": claim.name, "text": claim.text, "source": claim.source} for claim in one.claims]}
            for one in STUDIES
        ])  # fmt: skip
        return
    for one in STUDIES:
        scales = ", ".join(f"--{name} {scale.minutes:g} minutes" for name, scale in one.scales.items())
        lines = [(claim.text, claim.source) for claim in one.claims]
        print_table(("claim", "source"), lines, title=f"{one.name}: {one.source} ({scales} on two cores)")


def _print(one: "Outcome", folder: Path) -> None:
    from pennyweight.experiments.studies import lines_of, summary

    print_table(*lines_of(one))
    for sentence in summary(one):
        print_text(sentence)
    print(f"report: {folder / 'report.html'}")
