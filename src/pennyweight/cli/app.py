"""The command: its verbs, and what becomes of what they say."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pennyweight import __version__
from pennyweight.cli import settings
from pennyweight.cli.analyze import analyze
from pennyweight.cli.arguments import spread_settings
from pennyweight.cli.bench import bench
from pennyweight.cli.compare import compare
from pennyweight.cli.doctor import doctor
from pennyweight.cli.evaluate import evaluate
from pennyweight.cli.failures import INTERRUPTED, say, status_of
from pennyweight.cli.recipes import GRAMMAR, recipes
from pennyweight.cli.report import report
from pennyweight.cli.search import search
from pennyweight.cli.study import study
from pennyweight.cli.sweep import AXES, sweep
from pennyweight.cli.terminal import tell_progress
from pennyweight.cli.train import train

app = typer.Typer(
    name="pennyweight", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        print(f"pennyweight {__version__}")
        raise typer.Exit


@app.callback()
def pennyweight(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Pre-train transformer language models in few bits, and say honestly what that costs.

    Results go to stdout, progress to stderr. Exit status: 0 done, 1 the run failed, 2 bad request, 130 Ctrl-C.
    """


EPILOGS = {
    "train": settings.told(), "recipes": GRAMMAR, "compare": "Settings for --set: see pennyweight train --help.",
    "sweep": AXES, "search": "Settings for --set: see pennyweight train --help.",
}  # fmt: skip

for name, verb in {
    "compare": compare, "sweep": sweep, "train": train, "eval": evaluate, "report": report, "recipes": recipes,
    "doctor": doctor, "bench": bench, "analyze": analyze, "study": study,
    "search": search,
}.items():  # fmt: skip
    app.command(name, epilog=EPILOGS.get(name))(verb)


def main(words: Sequence[str] | None = None) -> int:
    """Does what the command line says (default: sys.argv) and returns the exit status."""
    typed = spread_settings(sys.argv[1:] if words is None else words)
    tell_progress()
    status = status_of(lambda: app(typed or ["--help"], prog_name="pennyweight", standalone_mode=False))
    if status == INTERRUPTED:
        say("interrupted")
    return status
