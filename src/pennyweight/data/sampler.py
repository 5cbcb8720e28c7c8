"""The sampler: which tokens a step reads, as a function of the seed and the position only."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pennyweight.numerics.noise import key, uniform


class Sampler:
    """An endless sequence of windows of tokens, the same for the same seed whatever the batch size.

    Every epoch cuts the tokens into windows of `context` + 1 (the last token of one is the first of the next), from a
    start that changes with the epoch, and reads them all once in an order that changes with the epoch. Both come from
    the counted noise of (seed, epoch). `position`, the number of windows read so far, is its whole state: set it, and
    the sampler goes on from exactly there.

    Raises ValueError for fewer than `context` + 1 tokens.
    """

    def __init__(self, tokens: NDArray[np.unsignedinteger], *, context: int, batch: int, seed: int, position: int = 0):
        self.windows = epoch_windows(tokens, context)
        if batch < 1 or position < 0:
            raise ValueError(f"a sampler reads 1 or more windows from position 0 on, got {batch=} and {position=}")
        self.tokens = tokens
        self.context = context
        self.batch = batch
        self.seed = seed
        self.position = position
        self._epoch = -1
        self._start = 0
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def next(self) -> Tensor:
        """The next windows, int64 [batch, context + 1]; inputs are [:, :-1], targets [:, 1:]."""
        rows = np.stack([self._window(self.position + row) for row in range(self.batch)])
        self.position += self.batch
        return torch.from_numpy(rows.astype(np.int64))

    def _window(self, position: int) -> NDArray[np.unsignedinteger]:
        epoch, index = divmod(position, self.windows)
        if epoch != self._epoch:
            self._turn(epoch)
        begin = self._start + int(self._order[index]) * self.context
        return self.tokens[begin : begin + self.context + 1]

    def _turn(self, epoch: int) -> None:
        room = len(self.tokens) - 1 - self.windows * self.context  # tokens that one epoch leaves unread
        draw = uniform(key(self.seed, epoch, "sampler", "start"), (1,))
        self._start = int(draw.double().item() * (min(room, self.context - 1) + 1))
        noise = uniform(key(self.seed, epoch, "sampler", "order"), (self.windows,))
        self._order = np.argsort(noise.numpy(), kind="stable")
        self._epoch = epoch


def validation_batches(
    tokens: NDArray[np.integer], context: int, batch: int, limit_tokens: int | None = None
) -> Iterator[Tensor]:
    """Windows of the tokens in order, int64 [up to batch, context + 1]: each token but the first is predicted once.

    Ends after `limit_tokens` predictions or where the tokens end; what no whole window is left for comes last, as one
    shorter window. A run's validation and `pennyweight eval` both read like this, so that they measure the same
    predictions.

    Raises ValueError for fewer than 2 tokens, or a context, a batch or a limit below 1.
    """
    check_length(tokens, 1, "the validation part")
    predictions = len(tokens) - 1 if limit_tokens is None else min(limit_tokens, len(tokens) - 1)
    if min(predictions, batch, context) < 1:
        raise ValueError(
            f"a validation reads 1 or more tokens in batches and windows of 1 or more, got {limit_tokens=}, {batch=} "
            f"and {context=}"
        )
    return _batches(tokens[: predictions + 1], context, batch)


def _batches(tokens: NDArray[np.integer], context: int, batch: int) -> Iterator[Tensor]:
    whole = (len(tokens) - 1) // context
    for first in range(0, whole, batch):
        begins = range(first * context, min(first + batch, whole) * context, context)
        rows = np.stack([tokens[begin : begin + context + 1] for begin in begins])
        yield torch.from_numpy(rows.astype(np.int64))
    rest = tokens[whole * context :]
    if len(rest) > 1:
        yield torch.from_numpy(rest.astype(np.int64))[None]


def epoch_windows(tokens: NDArray[np.integer], context: int) -> int:
    """How many windows of `context` + 1 tokens an epoch reads. Errors: ValueError where not even one fits."""
    check_length(tokens, context, "the training part")
    # One fewer than fits at start 0, so that every start up to `context` leaves room for all of them.
    return max(1, (len(tokens) - context) // context)


def check_length(tokens: NDArray[np.integer], context: int, part: str) -> None:
    """ValueError where not even one window of `context` + 1 tokens fits."""
    if context < 1:
        raise ValueError(f"a context holds 1 or more tokens, got context={context}")
    if len(tokens) < context + 1:
        raise ValueError(
            f"{part} of the data holds {len(tokens)} tokens, too short for a context of {context} (it needs "
            f"{context + 1}); give more text or a context of at most {max(len(tokens) - 1, 1)}"
        )
