"""Terminal: tables and JSON on stdout, words on stderr."""

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

WIDE = 200  # columns where stdout is no terminal: a table that is read by a program or in a log is not wrapped


def print_json(value: Any) -> None:
    """The value as JSON on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout; cells are plain text, whatever is in them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=WIDE, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)


def tell_progress() -> None:
    """Shows on stderr, as it is at this moment, what the rooms below say they are doing."""
    logger = logging.getLogger("pennyweight")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("pennyweight: %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
