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
        check_length(tokens, context, "the training part")
        if batch < 1 or position < 0:
            raise ValueError(f"a sampler reads 1 or more windows from position 0 on, got {batch=} and {position=}")
        self.tokens = tokens
        self.context = context
        self.batch = batch
        self.seed = seed
        self.position = position
        # One window fewer than fits at start 0, so that every start up to `context` leaves room for all of them.
        self.windows = max(1, (len(tokens) - context) // context)
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
    tokens: NDArray[np.unsignedinteger], context: int, batch: int, limit_tokens: int
) -> Iterator[Tensor]:
    """Windows of the first tokens in order, int64 [up to batch, context + 1], each token predicted once.

    As many windows as `limit_tokens` predictions need, or as there are; the last batch may be smaller.

    Raises ValueError for fewer than `context` + 1 tokens or a limit below 1.
    """
    check_length(tokens, context, "the validation part")
    if limit_tokens < 1 or batch < 1:
        raise ValueError(
            f"a validation reads 1 or more tokens in batches of 1 or more, got {limit_tokens=} and {batch=}"
        )
    windows = min(-(-limit_tokens // context), (len(tokens) - 1) // context)
    return _batches(tokens, context, batch, windows)


def _batches(tokens: NDArray[np.unsignedinteger], context: int, batch: int, windows: int) -> Iterator[Tensor]:
    for first in range(0, windows, batch):
        begins = range(first * context, min(first + batch, windows) * context, context)
        rows = np.stack([tokens[begin : begin + context + 1] for begin in begins])
        yield torch.from_numpy(rows.astype(np.int64))


def check_length(tokens: NDArray[np.unsignedinteger], context: int, part: str) -> None:
    """ValueError where not even one window of `context` + 1 tokens fits."""
    if context < 1:
        raise ValueError(f"a context holds 1 or more tokens, got context={context}")
    if len(tokens) < context + 1:
        raise ValueError(
            f"{part} of the data holds {len(tokens)} tokens, too short for a context of {context} (it needs "
            f"{context + 1}); give more text or a context of at most {max(len(tokens) - 1, 1)}"
        )
