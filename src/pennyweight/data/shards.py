"""Shards: token numbers in memory-mapped files that notice when they were cut short or changed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20  # bytes
SAMPLED = 256  # blocks looked at when a shard is opened: all of a shard below 256 MiB, evenly spread ones above


class Shard(TypedDict):
    """What the manifest says of a token file: `sha256` of all of it, `check` of what is looked at on opening."""

    file: str
    dtype: str
    tokens: int
    size_bytes: int
    sha256: str
    check: str


def write_shard(path: Path, tokens: Iterable[NDArray[np.int64]], vocab_size: int) -> Shard:
    """Writes token numbers, 2 bytes each (4 where the vocabulary needs it), and returns what to remember of them."""
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    digest = hashlib.sha256()
    count = 0
    with path.open("wb") as file:
        for piece in tokens:
            content = piece.astype(dtype).tobytes()
            digest.update(content)
            file.write(content)
            count += len(piece)
    size = count * dtype.itemsize
    return Shard(
        file=path.name,
        dtype=dtype.str,
        tokens=count,
        size_bytes=size,
        sha256=digest.hexdigest(),
        check=_check(path, size),
    )


def damage(folder: Path, shard: Shard) -> str | None:
    """None where the file holds what the manifest says; else half a sentence that says what is wrong with it."""
    path = folder / shard["file"]
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != shard["size_bytes"]:
        return f"{path.name} holds {size} bytes instead of {shard['size_bytes']}"
    if _check(path, size) != shard["check"]:
        return f"{path.name} was changed after it was written"
    return None


def open_shard(folder: Path, shard: Shard) -> np.memmap:
    """The token numbers, [tokens], read-only and mapped into memory: nothing is read before it is used."""
    return np.memmap(folder / shard["file"], dtype=np.dtype(shard["dtype"]), mode="r", shape=(shard["tokens"],))


def _check(path: Path, size: int) -> str:
    """SHA-256 of the size and of at most 256 evenly spread blocks of 1 MiB."""
    digest = hashlib.sha256(str(size).encode())
    blocks = -(-size // BLOCK)
    chosen = sorted({index * (blocks - 1) // max(min(blocks, SAMPLED) - 1, 1) for index in range(min(blocks, SAMPLED))})
    with path.open("rb") as file:
        for block in chosen:
            file.seek(block * BLOCK)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
