"""The corpus: documents as token shards of a train and a validation part, made once and then found in the cache."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pennyweight.cache import cache_folder
from pennyweight.data.documents import Documents
from pennyweight.data.shards import damage, open_shard, write_shard
from pennyweight.data.sources import Source, check_source
from pennyweight.data.sources import source as read_source
from pennyweight.data.split import Split, split
from pennyweight.data.tokenizer import check_name, encode, identity, load, make, save

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LAYOUT = 1  # raise it when documents, split or files change: corpora of other layouts are made anew
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
UNFINISHED = ".unfinished-"
ABANDONED_SECONDS = 24 * 3600  # an unfinished folder older than this belongs to a process that was killed

logger = logging.getLogger("pennyweight.data")


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: two memory-mapped token arrays, the tokenizer that made them and the manifest.

    `manifest` holds hash, source, tokenizer, split, train and valid (tokens, documents, bytes), bytes_per_token (bytes
    of text for each token of the validation part) and left_out.
    """

    folder: Path
    manifest: dict[str, Any] = field(repr=False)  # Any: what JSON holds

    @property
    def hash(self) -> str:
        """SHA-256 of source, Python version (of `stdlib`), tokenizer, split and tokens: equal ones may be compared."""
        return self.manifest["hash"]

    @property
    def vocab_size(self) -> int:
        """Token numbers are below this; at most the size asked for, fewer where the text is short."""
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the validation text for each of its tokens, end tokens included."""
        return self.manifest["bytes_per_token"]

    @cached_property
    def train(self) -> np.memmap:
        """Tokens of the training part, [tokens], uint16 or uint32, an end token after each document."""
        return open_shard(self.folder, self.manifest["train"])

    @cached_property
    def valid(self) -> np.memmap:
        """Tokens of the validation part, like `train`."""
        return open_shard(self.folder, self.manifest["valid"])

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The tokenizer, loaded when first asked for."""
        return load(self.folder / TOKENIZER)


def check_names(source: str, tokenizer: str) -> None:
    """Says of a source and a tokenizer what their names already tell, reading nothing.

    Errors: FileNotFoundError and ValueError, one sentence each with the nearest right name.
    """
    check_name(tokenizer)
    check_source(source)


def prepare(
    source: str = "stdlib",
    *,
    tokenizer: str = "bpe-4096",
    validation: float = 0.05,
    cache: Path | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Corpus:
    """The corpus of a source, from the cache where it was made before, else made now.

    It is written beside and then renamed, so that a killed process leaves nothing half-made behind and two processes
    may prepare the same corpus at once. A damaged cached corpus is made anew, with a warning. `progress` is told what
    takes time.

    Raises ValueError or FileNotFoundError, one sentence each, for data, tokenizers and shares that cannot be; OSError
    where the cache cannot be written (a full disk).
    """
    check_name(tokenizer)
    read = read_source(source)
    home = (cache or cache_folder()) / "corpora"
    key = _key(read, tokenizer, validation)
    folder = home / f"{re.sub(r'[^A-Za-z0-9]+', '-', Path(source).name)[:32].strip('-')}-{key[:16]}"
    fault = _fault(folder, key)
    if fault is None:
        return Corpus(folder, _manifest(folder))
    if folder.exists():
        logger.warning("the prepared corpus in %s is made anew: %s", folder, fault)
    unfinished = home / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        unfinished.mkdir()
        _build(unfinished, read, tokenizer, validation, key, progress)
        return Corpus(folder, _publish(unfinished, folder, key))
    except OSError as error:
        if not error.strerror:  # it is a sentence already
            raise
        raise OSError(f"the corpus cannot be written to the cache {home}: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _key(read: Source, tokenizer: str, validation: float) -> str:
    python = platform.python_version() if read.kind == "stdlib" else ""
    return _digest([LAYOUT, read.hash, python, identity(tokenizer), validation])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _build(
    folder: Path, read: Source, tokenizer: str, validation: float, key: str, progress: Callable[[str], None]
) -> None:
    documents = read.documents()
    texts = [text for _, text in documents]
    progress(f"splitting {len(texts)} document{'s' if len(texts) != 1 else ''}")
    try:
        parts = split(texts, validation)
    except ValueError as error:
        raise ValueError(f"data {read.spec!r} cannot be used: {error}") from None
    train = [texts[index] for index in parts.train]
    valid = [texts[index] for index in parts.valid]
    progress(f"making the tokenizer {tokenizer}")
    made = make(tokenizer, train)
    save(made, folder / TOKENIZER)
    progress(f"encoding {sum(map(len, texts)):,} characters")
    size = max(made.get_vocab().values()) + 1  # not len(made): the numbers of a taken vocabulary may have gaps
    manifest: dict[str, Any] = {
        "layout": LAYOUT,
        "key": key,
        "source": _source_entry(documents, read),
        "tokenizer": {
            "name": tokenizer,
            "vocab_size": size,
            "end": made.eos_token,
            "sha256": _tokenizer_hash(folder),
        },
        "split": _split_entry(parts, texts, validation),
        "train": {**write_shard(folder / "train.bin", encode(made, train), size), **_counts(train)},
        "valid": {**write_shard(folder / "valid.bin", encode(made, valid), size), **_counts(valid)},
        "left_out": [list(entry) for entry in documents.left_out],
    }
    _warn_if_short(manifest)
    manifest["bytes_per_token"] = manifest["valid"]["bytes"] / manifest["valid"]["tokens"]
    manifest["hash"] = _corpus_hash(manifest)
    manifest["checksum"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _warn_if_short(manifest: dict[str, Any]) -> None:
    held, trained = manifest["valid"]["bytes"], manifest["train"]["bytes"]
    if 2 * held < manifest["split"]["validation"] * (held + trained):
        logger.warning(
            "only %.2g %% of the data could be held back for validation: %d documents that share most of their lines "
            "must stay on one side",
            100 * held / (held + trained),
            manifest["split"]["largest_cluster_documents"],
        )


def _source_entry(documents: Documents, read: Source) -> dict[str, Any]:
    return {"name": read.spec, "kind": read.kind, "hash": documents.hash, "python": platform.python_version()}


def _split_entry(parts: Split, texts: list[str], validation: float) -> dict[str, Any]:
    largest = parts.clusters[0]
    return {
        "validation": validation,
        "clusters": len(parts.clusters),
        "largest_cluster_documents": len(largest),
        "largest_cluster_bytes": sum(len(texts[index].encode()) for index in largest),
    }


def _counts(texts: list[str]) -> dict[str, int]:
    return {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}


def _corpus_hash(manifest: dict[str, Any]) -> str:
    """Changes with everything a model gets to see; the same on every machine, whatever the path of the data."""
    told = manifest["source"]
    python = told["python"] if told["kind"] == "stdlib" else ""
    tokens = [manifest[part]["sha256"] for part in ("train", "valid")]
    return _digest([LAYOUT, told["hash"], python, manifest["tokenizer"]["sha256"], manifest["split"], tokens])


def _tokenizer_hash(folder: Path) -> str:
    return hashlib.sha256((folder / TOKENIZER / "tokenizer.json").read_bytes()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _fault(folder: Path, key: str) -> str | None:
    """None where the folder holds the corpus of that key, whole; else half a sentence that says what is wrong."""
    if not (folder / MANIFEST).is_file():
        return "it has no manifest"
    try:
        manifest = _manifest(folder)
        checksum = manifest.pop("checksum")
        if checksum != _digest(manifest) or manifest["key"] != key or manifest["hash"] != _corpus_hash(manifest):
            return "its manifest was changed after it was written"
        if manifest["tokenizer"]["sha256"] != _tokenizer_hash(folder):
            return "its tokenizer was changed after it was written"
        return damage(folder, manifest["train"]) or damage(folder, manifest["valid"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"it cannot be read ({type(error).__name__})"


def _publish(unfinished: Path, folder: Path, key: str) -> dict[str, Any]:
    """Renames the finished folder into place and returns its manifest; a whole corpus of a faster process stays."""
    manifest = _manifest(unfinished)
    for _ in range(8):  # a turn is lost only to another process that publishes in the same moment
        try:
            os.rename(unfinished, folder)
        except OSError:
            if _fault(folder, key) is None:
                return _manifest(folder)
            aside = unfinished.with_name(unfinished.name + "-damaged")
            with contextlib.suppress(FileNotFoundError):  # another process has just put it aside
                os.rename(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return manifest
    raise OSError(f"the prepared corpus cannot be put at {folder}")


def _sweep(home: Path) -> None:
    """Removes what killed processes left unfinished a day ago or longer."""
    for entry in home.glob(f"{UNFINISHED}*"):
        try:
            old = time.time() - entry.stat().st_mtime > ABANDONED_SECONDS
        except FileNotFoundError:  # another process finished it
            continue
        if old:
            shutil.rmtree(entry, ignore_errors=True)
