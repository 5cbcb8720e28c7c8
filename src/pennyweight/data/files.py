"""Files: which files of a folder are read, and how text, JSON lines and Parquet become documents."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pennyweight.data.documents import Cut, cut_long, decode

GLANCE = 1 << 20  # bytes read of a file before the rest: a large binary file is not read to its end to be left out
VERSION_CONTROL = {".git", ".hg", ".svn"}
ROWS = {".jsonl", ".ndjson", ".parquet"}  # suffixes read as one document a row; every other file is one text


def walk(root: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """(name, path) of every regular file below a folder, sorted by name, and (name, reason) of what is left out.

    Hidden files are read like all others. Links are left out: what they point to is either read under its own name or
    outside the folder. So are the folders of version control systems.
    """
    found: list[tuple[str, Path]] = []
    left_out: list[tuple[str, str]] = []

    def closed(error: OSError) -> None:
        left_out.append((Path(error.filename).relative_to(root).as_posix(), f"it cannot be read ({error.strerror})"))

    for folder, folders, files in os.walk(root, onerror=closed):
        here = Path(folder)
        for entry in sorted([*folders, *files]):
            path = here / entry
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                left_out.append((name, _link_reason(path, root)))
            elif entry in folders:
                if entry in VERSION_CONTROL:
                    left_out.append((name, "it is the folder of a version control system"))
            elif not stat.S_ISREG(path.stat().st_mode):
                left_out.append((name, "it is not a regular file"))
            else:
                found.append((name, path))
        folders[:] = [entry for entry in folders if entry not in VERSION_CONTROL]
    return sorted(found), sorted(left_out)


def _link_reason(path: Path, root: Path) -> str:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "it is a link that leads nowhere"
    inside = target.is_relative_to(root.resolve())
    return "it is a link to what is read under its own name" if inside else "it is a link out of the folder"


def read_all(found: list[tuple[str, Path]]) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """(name, bytes) of the files; those that cannot be opened, or begin like no text, are left out."""
    contents: list[tuple[str, bytes]] = []
    left_out: list[tuple[str, str]] = []
    for name, path in found:
        try:
            with path.open("rb") as file:
                begin = file.read(GLANCE)
                if not _has_rows(name):
                    decode(begin, whole=len(begin) < GLANCE)
                contents.append((name, begin + file.read()))
        except OSError as error:
            left_out.append((name, f"it cannot be read ({error.strerror})"))
        except ValueError as error:
            left_out.append((name, str(error)))
    return contents, left_out


def read_texts(contents: list[tuple[str, bytes]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, text) of the contents that are text, (name, reason) of the others."""
    texts: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    for name, content in contents:
        try:
            texts.append((name, decode(content)))
        except ValueError as error:
            left_out.append((name, str(error)))
    return texts, left_out


def folder_documents(
    contents: list[tuple[str, bytes]], cut: Cut = cut_long
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Documents of a folder's files (`cut` cuts texts), and the files that hold none: left out with a reason."""
    texts, left_out = read_texts([entry for entry in contents if not _has_rows(entry[0])])
    rows: list[tuple[str, str]] = []
    for name, content in contents:
        if _has_rows(name):
            try:
                rows += file_rows(name, content, None)
            except ValueError as error:
                left_out.append((name, str(error)))
    return [*cut(texts), *rows], sorted(left_out)


def _has_rows(name: str) -> bool:
    return Path(name).suffix.lower() in ROWS


def file_rows(name: str, content: bytes, column: str | None) -> list[tuple[str, str]]:
    """One document for each row of a JSON lines or Parquet file, named NAME#0, NAME#1 ..."""
    read = _parquet_texts if Path(name).suffix.lower() == ".parquet" else _json_texts
    return [(f"{name}#{row}", text) for row, text in enumerate(read(content, column))]


def _json_texts(content: bytes, column: str | None) -> Iterator[str]:
    for number, line in enumerate(decode(content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"its line {number} is not JSON ({error.msg} at column {error.colno})") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            raise ValueError(f"its line {number} is JSON that cannot be read ({str(error).split(';')[0]})") from None
        if not isinstance(row, dict):
            raise ValueError(f"its line {number} is not a JSON object but {type(row).__name__}")
        if column is None:
            column = text_column(list(row), [key for key, value in row.items() if isinstance(value, str)])
        if not isinstance(row.get(column), str):
            raise ValueError(f"its line {number} holds no string {column!r}; its fields are {', '.join(row) or 'none'}")
        if any("\ud800" <= letter <= "\udfff" for letter in row[column]):
            raise ValueError(f"its line {number} holds half of a surrogate pair, which is not text")
        yield row[column]


def _parquet_texts(content: bytes, column: str | None) -> list[str]:
    # Here, not at the top: pyarrow takes longer to import than a cached corpus to open.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        names = table.schema_arrow.names
        if column is not None and column not in names:
            raise ValueError(f"it has no column {column!r}; its columns are {', '.join(names)}")
        strings = [field.name for field in table.schema_arrow if _is_string(str(field.type))]
        column = column or text_column(names, strings)
        if column not in strings:
            raise ValueError(f"its column {column!r} holds no strings; its columns of strings are {', '.join(strings)}")
        values = table.read(columns=[column]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a page that does not hold what it should
        raise ValueError(f"it is no readable Parquet file ({str(error).splitlines()[0].rstrip('.')})") from None
    return [value or "" for value in values]


def _is_string(kind: str) -> bool:
    return kind.removeprefix("dictionary<values=").split(",")[0] in {"string", "large_string", "string_view"}


def text_column(names: list[str], strings: list[str]) -> str:
    """`text`, or the only column that holds strings; ValueError names the columns where neither can be told."""
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    listed = ", ".join(names) or "none"
    raise ValueError(f"it has no column 'text' and not exactly one column of strings (its columns: {listed})")
