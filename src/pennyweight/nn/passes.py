"""Passes: which forward passes of a model count as micro-batches, whether `torch.compile` has compiled them or not."""

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, library, nn

from pennyweight.kernels import is_differentiating
from pennyweight.numerics import Counter

_counters: WeakValueDictionary[int, Counter] = WeakValueDictionary()  # a compiled pass knows its counter by number


class MicroBatches:
    """Counts forward passes that will be trained on; a recomputation or a second backward pass is none.

    What `torch.utils.checkpoint` recomputes before the next forward pass draws the same noise as at first; of a whole
    model with use_reentrant=True no pass counts, because torch runs the first one without gradients.
    """

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.number = torch.tensor(id(counter), device="cpu")
        _counters[id(counter)] = counter

    def __call__(self, module: nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled():
            if torch.compiler.is_compiling():
                torch.ops.pennyweight.count(self.number)
            else:
                _count(self.counter)

    def __reduce__(self) -> tuple[Any, ...]:
        return MicroBatches, (self.counter,)  # a copy has a counter, and a number, of its own


def _count(counter: Counter) -> None:
    if not is_differentiating():
        counter.micro_batch += 1


def _count_numbered(number: Tensor) -> None:
    _count(_counters[int(number)])


# An operator, because a compiled pass would otherwise run this once, while it is traced. It says that it changes the
# number, though it does not: what changes nothing and returns nothing would be left out.
library.define("pennyweight::count", "(Tensor(a!) number) -> ()")
library.impl("pennyweight::count", "CPU", _count_numbered)
library.register_fake("pennyweight::count", lambda number: None)
