"""Flags: the everyday options that more than one verb has, said once."""

from pathlib import Path
from typing import Annotated

import typer

MODEL = (
    "A built-in shape (tiny, gpt2, llama-small, qwen-small), a config.json, a folder or a hub name. Its config is read "
    "and never its weights: training begins from fresh ones. A built-in shape takes the tokenizer's vocabulary."
)
DATA = (
    "A file, a folder, hf:NAME, or stdlib: the source text of Python's own standard library. Of JSON lines and Parquet "
    "the column text is read, else the only one that holds strings; FILE#COLUMN names another."
)


def _written(settings: list[str] | None) -> list[str] | None:
    """The settings as they were typed. Errors: typer.BadParameter where one is no setting, such as the next flag."""
    for setting in settings or ():
        if not setting.partition("=")[1]:
            raise typer.BadParameter(f"a setting is written path=value, got {setting!r}")
    return settings


def named_folder(text: str) -> Path:
    """The folder that is named. Errors: typer.BadParameter for an empty name, which would be the current folder."""
    if not text.strip():
        raise typer.BadParameter("a folder wants a name, got nothing; the current folder is '.'")
    return Path(text)


Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help=MODEL, show_default="tiny")]
Data = Annotated[str | None, typer.Option("--data", metavar="SOURCE", help=DATA, show_default="stdlib")]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Optimizer steps.", show_default="400")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE ...",
        help="Any other setting: optimizer.lr=3e-4 data.context=128",
        show_default=False,
        callback=_written,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Folder = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", parser=named_folder, show_default="runs/...")]
