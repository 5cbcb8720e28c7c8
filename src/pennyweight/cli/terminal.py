"""Terminal: tables and JSON on stdout, words on stderr."""

import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

WIDE = 200  # columns where stdout is no terminal: a table that is read by a program or in a log is not wrapped

Cells = Sequence[Sequence[str]]


def print_json(value: Any) -> None:
    """The value as JSON on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(
    header: Sequence[str], lines: Cells, *, title: str | None = None, spare: Sequence[str] = ()
) -> list[str]:  # fmt: skip
    """A table on stdout; cells are plain text, whatever is in them. Returns the names of the columns left out.

    Where it is wider than the terminal, the columns `spare` are left out one after the other until it fits. Where they
    are not enough, or without them words would be cut, each line is told as a block of its own.
    """
    console = _console()
    left_out: list[str] = []
    for name in spare:
        if _width(console, _table(header, lines, title)).maximum <= console.width:
            break
        place = header.index(name)
        header, lines = _without(header, place), [_without(line, place) for line in lines]
        left_out.append(name)
    table = _table(header, lines, title)
    needed = _width(console, table)
    if len(header) > 2 and (needed.maximum if spare else needed.minimum) > console.width:
        for number, (name, *cells) in enumerate(lines):
            block = list(zip(header[1:], cells, strict=True))
            _show(console, _table((header[0], name), block, None if number else title))
    else:
        _show(console, table)
    return left_out


def _without(cells: Sequence[str], place: int) -> list[str]:
    return [cell for number, cell in enumerate(cells) if number != place]


def print_text(text: str) -> None:
    """Words on stdout, broken between words where the terminal is narrow."""
    print(text if _is_read_by_a_program() else textwrap.fill(text, _console().width, break_on_hyphens=False))


def _is_read_by_a_program() -> bool:
    return not sys.stdout.isatty() and "COLUMNS" not in os.environ


def _console() -> "Console":
    from rich.console import Console

    return Console(width=WIDE if _is_read_by_a_program() else None, highlight=False)


def _table(header: Sequence[str], lines: Cells, title: str | None) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _width(console: "Console", table: "Table") -> "Measurement":
    """How wide a table is where no word is cut (minimum) and where no cell is wrapped (maximum), in columns."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table)


def _show(console: "Console", table: "Table") -> None:
    """Prints a table; in a file or a pipe without blanks at the ends of its lines."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def tell_start() -> None:
    """Says on a terminal that the command begins: the libraries that it needs take seconds to load."""
    if sys.stderr.isatty():
        print("pennyweight: starting", file=sys.stderr, flush=True)


def tell_progress() -> None:
    """Shows on stderr, as it is at this moment, what the rooms below say they are doing."""
    logger = logging.getLogger("pennyweight")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("pennyweight: %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
