"""The split: which documents are kept for validation, so that nothing of them stands in the training part."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INDENTED = re.compile(r"^[^\S\n]+\S", re.MULTILINE)
SLACK = 0.1  # the validation part may miss its share by a tenth of it, either way


@dataclass(frozen=True)
class Split:
    """Indices of the documents of both parts, and the clusters that had to stay together, largest (in bytes) first.

    The validation part is in the order of content hashes, so that its beginning is a fair sample of all of it.
    """

    train: tuple[int, ...]
    valid: tuple[int, ...]
    clusters: tuple[tuple[int, ...], ...]


def split(texts: Sequence[str], validation: float) -> Split:
    """A train/validation split that cannot leak, holding about `validation` of the bytes back.

    Two documents are related when they share more than half of the smaller one's lines (distinct, not blank, with or
    without their indentation); documents linked by a chain of relations go to the same side. Which clusters are held
    back depends on the contents alone: neither on a seed, nor on names or order, nor on the machine.

    Raises ValueError where one side would be empty.
    """
    if not 0 < validation <= 0.5:
        raise ValueError(f"validation is a share of the text above 0 and up to 0.5, got {validation}")
    sizes = [len(text.encode()) for text in texts]
    clusters = [(sum(sizes[index] for index in cluster), cluster) for cluster in related(texts)]
    if len(clusters) < 2:
        why = "it is one document" if len(texts) < 2 else "all of its documents share most of their lines"
        raise ValueError(f"the data is too short to hold a validation part back: {why} ({sum(sizes)} bytes)")
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    clusters.sort(key=lambda entry: min(digests[index] for index in entry[1]))
    held = {index for cluster in _hold_back(clusters, validation) for index in cluster}
    ordered = sorted(clusters, key=lambda entry: -entry[0])
    return Split(
        train=tuple(index for index in range(len(texts)) if index not in held),
        valid=tuple(sorted(held, key=lambda index: digests[index])),
        clusters=tuple(cluster for _, cluster in ordered),
    )


def _hold_back(clusters: list[tuple[int, tuple[int, ...]]], validation: float) -> list[tuple[int, ...]]:
    """Clusters in the given order until the share is reached, passing over those that would exceed it; never all."""
    total = sum(size for size, _ in clusters)
    wanted = validation * total
    chosen: list[tuple[int, ...]] = []
    held = 0
    for size, cluster in clusters:
        if held >= wanted * (1 - SLACK):
            break
        if held + size <= wanted * (1 + SLACK):
            chosen.append(cluster)
            held += size
    rest = sorted((entry for entry in clusters if entry[1] not in chosen), key=lambda entry: entry[0])
    for size, cluster in rest:  # those passed over are larger than the share: the smallest, until half of it is held
        if held >= wanted / 2 or (chosen and held + size > total / 2):
            break
        chosen.append(cluster)
        held += size
    return chosen


def related(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The documents in clusters, as tuples of indices: the connected components of "related" (see `split`).

    Lines are compared twice, as they stand and without their indentation: either way more than half is too much.
    """
    parents = np.arange(len(texts))
    _join(_line_sets(texts, str.rstrip), parents)
    if any(INDENTED.search(text) for text in texts):
        _join(_line_sets(texts, str.strip), parents)
    members: dict[int, list[int]] = {}
    for index, root in enumerate(_roots(parents, np.arange(len(texts)))):
        members.setdefault(int(root), []).append(index)
    return [tuple(cluster) for cluster in members.values()]


def _line_sets(texts: Sequence[str], reading: Callable[[str], str]) -> list[NDArray[np.int64]]:
    """The distinct non-blank lines of each document, as sorted numbers: equal lines have equal numbers."""
    numbers: dict[str, int] = {}
    sets: list[NDArray[np.int64]] = []
    for text in texts:
        lines = {line for line in map(reading, text.split("\n")) if line}
        sets.append(np.sort(np.array([numbers.setdefault(line, len(numbers)) for line in lines], dtype=np.int64)))
    return sets


def _join(sets: list[NDArray[np.int64]], parents: NDArray[np.int64]) -> None:
    """Unites all pairs that share more than half of the smaller set's lines; exact.

    A pair shares t = floor(a/2) + 1 of the a lines of its smaller set only if one of any a - t + 1 = ceil(a/2) lines
    of it stands in the other. So only documents that hold one of the *rarest* half of a document's lines are compared
    with it: in most documents these lines stand nowhere else. Short documents come first, because what they join need
    not be compared again.

    Source: prefix filtering, Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for similarity joins".
    """
    distinct = _without_twins(sets, parents)
    if len(distinct) < 2:
        return
    index = _Holders(sets, distinct)
    for document in sorted(distinct, key=lambda document: len(sets[document])):
        own = sets[document]
        rarest = own[np.argsort(index.frequency[own], kind="stable")][: (len(own) + 1) // 2]
        rarest = rarest[index.frequency[rarest] > 1]
        if not len(rarest):
            continue
        others, _ = index.shared(rarest)
        others = others[index.lengths[others] >= len(own)]
        if np.all(_roots(parents, others) == _roots(parents, np.array([document]))):
            continue
        others, counts = index.shared(own)
        hits = others[(index.lengths[others] >= len(own)) & (2 * counts > len(own))]
        _unite(parents, np.append(hits, document))


def _without_twins(sets: list[NDArray[np.int64]], parents: NDArray[np.int64]) -> list[int]:
    """One document of each set of equal ones, all of which are united; documents without lines are related to none."""
    first: dict[bytes, int] = {}
    distinct: list[int] = []
    for document, lines in enumerate(sets):
        if not len(lines):
            continue
        twin = first.setdefault(lines.tobytes(), document)
        if twin == document:
            distinct.append(document)
        else:
            _unite(parents, np.array([twin, document]))
    return distinct


class _Holders:
    """Which documents hold a line: for line n, holders[ends[n] - frequency[n] : ends[n]]."""

    def __init__(self, sets: list[NDArray[np.int64]], documents: list[int]):
        self.lengths = np.array([len(lines) for lines in sets])
        lines = np.concatenate([sets[document] for document in documents])
        owners = np.repeat(np.array(documents), self.lengths[documents])
        self.frequency = np.bincount(lines)
        self.holders = owners[np.argsort(lines, kind="stable")]
        self.ends = np.cumsum(self.frequency)

    def shared(self, lines: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(documents that hold at least one of the lines, how many of them each holds)."""
        holders = np.concatenate(
            [self.holders[self.ends[line] - self.frequency[line] : self.ends[line]] for line in lines]
        )
        if 8 * len(holders) < len(self.lengths):  # few: sorting them is faster than counting for every document
            return np.unique(holders, return_counts=True)
        counts = np.bincount(holders, minlength=len(self.lengths))
        documents = np.flatnonzero(counts)
        return documents, counts[documents]


def _roots(parents: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    roots = parents[indices]
    while not np.array_equal(parents[roots], roots):
        roots = parents[roots]
    parents[indices] = roots
    return roots


def _unite(parents: NDArray[np.int64], documents: NDArray[np.int64]) -> None:
    roots = _roots(parents, documents)
    parents[roots] = roots.min()
