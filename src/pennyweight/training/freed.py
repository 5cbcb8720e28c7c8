"""Freed: a gradient whose tensors never stand together, since each is taken and freed while backward still runs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pennyweight.kernels import squares
from pennyweight.numerics import Counter
from pennyweight.optim.finiteness import vouch
from pennyweight.training.gradient import Gradient, cut


@runtime_checkable
class TakesOne(Protocol):
    """An optimizer that can step one parameter before the gradients of the others are there."""

    def take(self, parameter: Tensor) -> None:
        """Steps `parameter` from its `.grad`."""
        ...


@dataclass(kw_only=True)
class Freed(Gradient):
    """A gradient that moves the weights while it is computed: the optimizer takes each tensor, which is freed at once.

    A tensor is complete when every use of its parameter has added to it (a tied weight's once, after both). Clipped by
    the norm of the step before; the first step measures its own norm in a pass of its own, with the same dropout and
    noise, and frees every gradient there too. The optimizer's `step()` afterwards finds no gradient left to take.

    A loss that is not finite stops before any weight has moved. From a gradient that is not finite on, no further
    weight moves, but those of the layers above it have: `check` is told, and no checkpoint may be made of them.

    Ancestor: `Gradient` with the same `clip` and `previous`, bit for bit.
    Costs:    at most the largest gradient at a time, beside a tied head's, which the loss makes early; one more pass
              forward and backward in the first of all steps, if it is clipped.
    Errors:   TypeError for an optimizer without `take`; ValueError for several micro-batches.
    """

    optimizer: object
    counter: Counter = field(default_factory=Counter)  # of the model's noise
    early: Tensor | None = None  # the weight whose gradient stands from the forward pass to the end of backward
    _squares: dict[int, float] = field(default_factory=dict, init=False)
    _bad: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, TakesOne):
            raise TypeError(
                "gradients freed layer by layer need an optimizer that steps one tensor at a time, as "
                f"pennyweight.optim.AdamW does; {type(self.optimizer).__name__} needs them all at once: hold them"
            )
        if len(self.batches) != 1:
            raise ValueError(
                f"gradients freed layer by layer are of one micro-batch, got {len(self.batches)}; "
                "take one larger batch, or hold the gradients"
            )

    def __call__(self) -> Tensor:
        """Moves every weight; returns the loss where the step began, a float32 scalar."""
        self.clear()
        previous = self.previous
        if self.clip is not None and previous is None:
            device = self.batches[0].device
            with torch.random.fork_rng([device] if device.type == "cuda" else []), _again(self.counter):
                self._pass(nullcontext, self._pass_by)
            previous = self.norm
        return self._pass(self.watch, partial(self._take, cut(self.clip, 0.0 if previous is None else previous)))

    def _pass(self, watch: Callable, complete: Callable[[str, Tensor], None]) -> Tensor:
        """Forward and backward; `complete` is told the name and the parameter of every gradient that is complete."""
        self._squares, self._bad = {}, None
        with watch():
            loss = self.loss(self.batches[0])
        total = loss.detach().to(torch.float32, copy=True)
        self.check(total, 0.0)
        with _told(self.model, complete):
            loss.backward()
        self.norm = math.sqrt(sum(self._squares[id(p)] for p in self.model.parameters() if id(p) in self._squares))
        self.check(total, self.norm, where=self._bad and f"the gradient of {self._bad}")
        return total

    def _pass_by(self, name: str, parameter: Tensor) -> None:
        """Measures a gradient and frees it."""
        gradient = parameter.grad
        assert gradient is not None
        (found,) = squares([gradient])
        self._squares[id(parameter)] = found
        if self._bad is None and not math.isfinite(found):
            self._bad = name
        waiting = 0 if self.early is None else self.early.nbytes  # until the end, where the other use adds to it
        self.memory_bytes = max(self.memory_bytes, gradient.nbytes + waiting)
        parameter.grad = None

    def _take(self, factor: float | None, name: str, parameter: Tensor) -> None:
        """Measures a gradient, moves its weight and frees it."""
        gradient = parameter.grad
        self._pass_by(name, parameter)
        if self._bad is not None:
            return
        assert gradient is not None
        assert isinstance(self.optimizer, TakesOne)
        parameter.grad = gradient if factor is None else gradient.mul_(factor)
        vouch([parameter.grad])
        self.optimizer.take(parameter)
        parameter.grad = None


def freed_bytes(model: nn.Module, early: Tensor | None) -> int:
    """The most that gradients freed one by one hold at a time: the largest, and the one that waits for it."""
    return max(p.nbytes for p in model.parameters()) + (0 if early is None else early.nbytes)


@contextmanager
def _told(model: nn.Module, complete: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside: `complete(name, parameter)` for every gradient that a backward pass has completed."""
    found = [
        parameter.register_post_accumulate_grad_hook(partial(complete, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in found:
            hook.remove()


@contextmanager
def _again(counter: Counter) -> Iterator[None]:
    """Inside: forward passes are counted; afterwards they count as not made, so that the next draws the same noise."""
    before = counter.state()
    try:
        yield
    finally:
        counter.load(before)
