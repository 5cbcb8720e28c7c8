"""Sources: where documents come from, from the words after --data to texts with names."""

import os
import re
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pennyweight.data.documents import Cut, Documents, content_hash, cut_long, decode, without_blank
from pennyweight.data.files import ROWS, file_rows, folder_documents, read_all, read_texts, text_column, walk
from pennyweight.spelling import closest

TESTS = {"test", "tests", "idle_test"}  # folders of the standard library that hold its tests
NO_SOURCE = {"site-packages", "dist-packages", "__pycache__"}
GENERATED = "_sysconfigdata_"  # written when Python was built: it lists the folders of one machine
PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\corpus is a path
DATASET = re.compile(r"(?P<path>[^:#]+)(:(?P<split>[^#]+))?(#(?P<column>.+))?")


@dataclass(frozen=True)
class Source:
    """What `--data` names, its bytes already read and hashed, not yet cut into documents.

    `hash` decides whether a cached corpus may be reused, so it is computed first and everything else on demand.
    """

    spec: str
    kind: str  # "stdlib", "folder", "file" or "rows"
    contents: list[tuple[str, bytes]] = field(repr=False)
    left_out: list[tuple[str, str]] = field(repr=False)
    column: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of names and bytes; a single file's name does not count, only its suffix and the column asked for."""
        pieces = [(f"{self.kind} {self.column}", b""), *self.contents]
        if self.kind == "file":
            name, content = self.contents[0]
            pieces[1:] = [(Path(name).suffix.lower(), content)]
        return content_hash(pieces)

    def documents(self, cut: Cut = cut_long) -> Documents:
        """The documents, texts cut by `cut`; ValueError in one sentence where the source holds none."""
        parts, unread = self._parts(cut)
        parts, blank = without_blank(parts)
        left_out = (*self.left_out, *unread, *blank)
        if not parts:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
            raise ValueError(f"data {self.spec!r} holds no text to train on ({reasons or 'nothing is there'})")
        return Documents(tuple(parts), left_out)

    def _parts(self, cut: Cut) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        match self.kind:
            case "stdlib":
                return read_texts(self.contents)
            case "folder":
                return folder_documents(self.contents, cut)
            case "file":
                return self._file_parts(cut), []
            case _:
                return [(name, content.decode()) for name, content in self.contents], []

    def _file_parts(self, cut: Cut) -> list[tuple[str, str]]:
        name, content = self.contents[0]
        try:
            if not content:
                raise ValueError("it is empty")
            if Path(name).suffix.lower() in ROWS:
                return file_rows(name, content, self.column)
            return cut([(name, decode(content))])
        except ValueError as error:
            raise ValueError(f"data file {self.spec!r} cannot be read: {error}") from None


def source(spec: str) -> Source:
    """Reads what a data specification names: `stdlib`, a file, a folder or `hf:NAME[/CONFIG][:SPLIT][#COLUMN]`.

    Raises FileNotFoundError or ValueError, each one sentence with the nearest right name.
    """
    if spec == "stdlib":
        return _stdlib()
    if spec.startswith("hf:"):
        return _dataset(spec)
    path, column = _place(spec)
    if path.is_dir():
        found, left_out = walk(path.resolve())
        contents, unread = read_all(found)
        return Source(spec, "folder", contents, left_out + unread)
    contents, unread = read_all([(path.name, path)])
    if unread:
        raise ValueError(f"data file {spec!r} cannot be read: {unread[0][1]}")
    return Source(spec, "file", contents, [], column)


def usual(spec: str) -> str:
    """The specification as it is usually written: `notes` for notes/, ./notes and notes//."""
    path = str(PurePath(spec))
    is_path = spec and not PREFIX.match(spec) and path != "stdlib"  # the folder ./stdlib is not the standard library
    return path if is_path else spec


def check_source(spec: str) -> None:
    """Says of a data specification what can be said without reading it; errors as of `source`."""
    if spec.startswith("hf:"):
        _named(spec)
    elif spec != "stdlib":
        _place(spec)


def _place(spec: str) -> tuple[Path, str | None]:
    """The folder or file that is named, and the column where one is named after a `#`."""
    if not spec:
        raise ValueError("data names nothing; it is 'stdlib', a file, a folder or 'hf:NAME'")
    path, column = _home(spec), None
    if not path.exists() and "#" in spec:
        file, column = spec.rsplit("#", 1)
        path = _home(file)
    if not path.exists():
        raise _missing(spec, path)
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"data {spec!r} is neither a regular file nor a folder")
    return path, column


def documents(spec: str, cut: Cut = cut_long) -> Documents:
    """The documents of a data specification; see `source` for what can be named.

    A text that makes up much of the whole is cut, so that a part of it can be held back; with `cut=list` every file of
    text is one document.
    """
    return source(spec).documents(cut)


def _home(text: str) -> Path:
    """The path, with ~ and ~user in place. Errors: FileNotFoundError for a user who is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"data {text!r} stands in the home of a user who is not there") from None


def _missing(spec: str, path: Path) -> FileNotFoundError | ValueError:
    if PREFIX.match(spec):
        prefix = spec.split(":")[0]
        return ValueError(f"data {spec!r} has the unknown prefix {prefix + ':'!r}; the only one is 'hf:'")
    names = (
        {entry.name: str(path.parent / entry.name) for entry in path.parent.iterdir()} if path.parent.is_dir() else {}
    )
    if path.parent == Path("."):
        names |= {"stdlib": "stdlib"}
    near = closest(path.name, names)
    hint = f"; did you mean {names[near]!r}?" if near else "; data is 'stdlib', a file, a folder or 'hf:NAME'"
    return FileNotFoundError(f"data {spec!r} is not there{hint}")


def _stdlib() -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    contents: list[tuple[str, bytes]] = []
    left_out: list[tuple[str, str]] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NO_SOURCE | TESTS]
        for path in (Path(folder, file) for file in files if file.endswith(".py")):
            name = path.relative_to(root).as_posix()
            if path.name.startswith(GENERATED):
                left_out.append((name, "it was generated for this machine"))
            else:
                contents.append((name, path.read_bytes()))
    if not contents:
        raise FileNotFoundError(f"data 'stdlib' finds no source text in {str(root)!r}; name a file or a folder instead")
    return Source("stdlib", "stdlib", sorted(contents), left_out)


def _named(spec: str) -> re.Match[str]:
    """Path, split and column of a Hugging Face data set."""
    match = DATASET.fullmatch(spec.removeprefix("hf:"))
    if not match:
        raise ValueError(f"data {spec!r} is not of the form 'hf:NAME[/CONFIG][:SPLIT][#COLUMN]'")
    return match


def _dataset(spec: str) -> Source:
    match = _named(spec)
    # Here, not at the top: `datasets` takes seconds to import, and only this kind of source needs it.
    import datasets

    split = match["split"] or "train"
    rows = _load(spec, match["path"], split)
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(f"data {spec!r} is not one table of rows but {type(rows).__name__}")
    strings = [
        name for name, kind in rows.features.items() if getattr(kind, "dtype", None) in {"string", "large_string"}
    ]
    column = match["column"]
    if column is None:
        try:
            column = text_column(rows.column_names, strings)
        except ValueError as error:
            raise ValueError(f"data {spec!r} names no column (#COLUMN): {error}") from None
    if column not in strings:
        near = closest(column, strings)
        hint = f"did you mean {near!r}?" if near else f"its columns of strings are {', '.join(strings) or 'none'}"
        raise ValueError(f"data {spec!r} has no column of strings {column!r}; {hint}")
    contents = [(f"{split}#{row}", (text or "").encode()) for row, text in enumerate(rows[column])]
    return Source(spec, "rows", contents, [], column)


def _load(spec: str, path: str, split: str) -> object:
    """The rows of a data set on the hub, of a folder of data files, or of one written by `save_to_disk`."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    local = _home(path)
    try:
        if (local / "state.json").is_file():
            return datasets.load_from_disk(str(local))
        if (local / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(local / split))
        if local.is_dir():
            return datasets.load_dataset(str(local), split=split)
        head, _, config = path.rpartition("/")
        if path.count("/") > 1:
            return datasets.load_dataset(head, config, split=split)
        try:
            return datasets.load_dataset(path, split=split)
        except DatasetNotFoundError:
            if not head:
                raise
            return datasets.load_dataset(head, config, split=split)  # a name without an owner, and its configuration
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        told = (isinstance(error, DatasetsError) and error.__cause__) or error  # it names the table, its cause the slip
        reason = " ".join(str(told).split()).rstrip(".")
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"data {spec!r} cannot be loaded by `datasets`: {reason}") from None
