"""Documents: how bytes and rows become texts with names, and what was left out and why."""

import hashlib
import re
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

HEADING = re.compile(r"^ ?= [^=\n]*[^=\s] = ?$", re.MULTILINE)  # " = Title = " opens an article in WikiText
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
SPACE = re.compile(r"\s")
LARGEST_SHARE = 20  # a text above 1/20 of all is cut: as one document it would exceed the usual validation part of 5 %
PIECES = 256  # about so many pieces come out of one long text, enough to choose a validation part from
Cut = Callable[[Iterable[tuple[str, str]]], list[tuple[str, str]]]  # texts of files into documents: cut_long, or list
SHORTEST_PIECE, LONGEST_PIECE = 512, 65_536  # characters


@dataclass(frozen=True)
class Documents:
    """Texts with names, in a fixed order, and what was found but left out, each with its reason."""

    parts: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the texts in their order, without the names: the same wherever they lie."""
        return content_hash(("", text.encode()) for _, text in self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.parts)


def decode(content: bytes, *, whole: bool = True) -> str:
    """The text of a file, or of its beginning; ValueError says in half a sentence why the bytes are none."""
    try:
        text = getincrementaldecoder("utf-8")().decode(content, whole)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is binary or in another encoding than UTF-8 (byte {error.start} is 0x{content[error.start]:02x})"
        ) from None
    if "\0" in text:
        raise ValueError(f"it is binary, no text (byte {content.index(0)} is 0x00)")
    return text.removeprefix("\ufeff")  # the byte order mark of some editors is no text


def cut(text: str, size: int) -> list[str]:
    """Pieces whose concatenation is the text: articles where it has WikiText headings, else about `size` characters.

    A piece of `size` or more characters ends at the first blank line, else line end, else space, that follows within
    another `size` characters, else right there. A short rest belongs to the last piece.
    """
    starts = [match.start() for match in HEADING.finditer(text)]
    if len(starts) < 2:
        starts = list(_even_cuts(text, size))
    blank = len(text) - len(text.lstrip())  # what stands before the first word belongs to the first piece
    edges = [0, *(start for start in starts if start > blank), len(text)]
    return [text[begin:end] for begin, end in zip(edges, edges[1:], strict=False)]


def _even_cuts(text: str, size: int) -> Iterator[int]:
    begin = 0
    while len(text) - begin >= 2 * size:
        near, far = begin + size, min(begin + 2 * size, len(text) - size)
        match = BLANK_LINE.search(text, near, far) or re.compile("\n").search(text, near, far)
        match = match or SPACE.search(text, near, far)
        begin = match.end() if match else near
        yield begin


def cut_long(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The texts, those longer than a twentieth of them all cut into pieces named NAME#0000, NAME#0001 ..."""
    texts = list(texts)
    total = sum(len(text) for _, text in texts)
    size = min(max(total // PIECES, SHORTEST_PIECE), LONGEST_PIECE)
    parts: list[tuple[str, str]] = []
    for name, text in texts:
        pieces = cut(text, size) if len(text) * LARGEST_SHARE > total else [text]
        parts += (
            [(f"{name}#{index:04d}", piece) for index, piece in enumerate(pieces)] if pieces[1:] else [(name, text)]
        )
    return parts


def without_blank(parts: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(documents that hold something, the blank ones as left out: files by name, rows and pieces as a number)."""
    kept: list[tuple[str, str]] = []
    files: list[str] = []
    parts_of: Counter[str] = Counter()
    for name, text in parts:
        file, _, number = name.rpartition("#")
        if text.strip():
            kept.append((name, text))
        elif number.isdecimal():
            parts_of[file] += 1
        else:
            files.append(name)
    counted = [(file, f"{count} of its documents are blank") for file, count in parts_of.items()]
    return kept, [(name, "it is blank") for name in files] + counted


def content_hash(pieces: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 of named contents; lengths are written down so that no two lists of contents look alike."""
    digest = hashlib.sha256()
    for name, content in pieces:
        label = name.encode("utf-8", "surrogateescape")  # a file name need not be UTF-8
        digest.update(f"{len(label)} {len(content)} ".encode())
        digest.update(label)
        digest.update(content)
    return digest.hexdigest()
