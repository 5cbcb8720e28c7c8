"""Files: what stands on the disk whole or not at all, and survives a power cut."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pennyweight.training.tensors import checksum

PARTIAL = ".partial"  # ends the name of what is not whole yet
BEFORE = ".before"  # ends the name of a folder while the one that takes its place is moved in


def is_full(error: Exception) -> bool:
    """Whether it is want of room on the disk that stopped a write; safetensors says so in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error)


def write_text(path: Path, text: str) -> None:
    """Writes text, fsynced. Errors: OSError (a full disk)."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, written: object) -> str:
    """Writes JSON, fsynced, and returns its SHA-256. Errors: OSError (a full disk)."""
    write_text(path, json.dumps(written, indent=1) + "\n")
    return checksum(path)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Writes text beside and renames it, so that a reader finds the old or the new file and never a part of one.

    Two processes may write the same file at once. Errors: OSError (a full disk); then the old file stands.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write_text(beside, text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to write into that becomes `final` when all went well, and vanishes when not; then an old one stands."""
    partial = final.with_name(f".{final.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        if final.exists():
            final.rename(_aside(final))
        partial.rename(final)
        sync_folder(final.parent)
    finally:
        _settle(final)
        shutil.rmtree(partial, ignore_errors=True)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}{BEFORE}")


def _settle(final: Path) -> None:
    """Puts back what was moved aside for `final` where nothing took its place, and removes it where something did."""
    if final.exists():
        shutil.rmtree(_aside(final), ignore_errors=True)
    elif _aside(final).exists():
        _aside(final).rename(final)


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written, and puts back what it had moved aside."""
    for path in folder.glob(f".*{BEFORE}"):
        _settle(path.with_name(path.name[1 : -len(BEFORE)]))
    for path in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
