"""Shared: what the layers of one converted model share: the noise counter, and the input written last."""

from dataclasses import dataclass, field
from threading import local
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from pennyweight.kernels import is_differentiating
from pennyweight.nn.operands import Raw
from pennyweight.numerics import Cast, Counter, Quantized


class _Here(local):
    """Of one thread: whether it is inside a forward pass of the whole model, and (input, version, cast, codes)."""

    inside: bool = False
    last: tuple[ref, int, Cast, Quantized] | None = None


@dataclass
class Shared:
    """What the layers of one converted model share: the noise counter, and the last input written.

    Layers fed by one tensor (q, k and v; gate and up) write and keep it once. Codes are used again within one forward
    pass of the whole model, or its recomputation, only: from one pass to the next an input may change without torch
    counting it (a NumPy view, `.data`, shared memory). Each thread has its own.
    """

    counter: Counter = field(default_factory=Counter)
    activations: bool = True  # False: weights are written, nothing else is (`activations_off`)
    _here: _Here = field(default_factory=_Here, init=False, repr=False, compare=False)

    def write(self, x: Tensor, matrix: Tensor, cast: Cast) -> Quantized:
        """`matrix` (the rows of `x`) written by `cast`, or the copy made when `x` was last written by it."""
        last, self._here.last = self._here.last, None
        if x.is_inference() or torch.is_inference_mode_enabled():  # changes are not counted, codes are not for training
            return Raw(matrix, cast).write()
        if not (self._here.inside or is_differentiating()):
            return Raw(matrix, cast).write()
        if last is None or last[0]() is not x or last[1:3] != (x._version, cast):
            last = (ref(x, self._forget), x._version, cast, Raw(matrix, cast).write())
        self._here.last = last
        return last[3]

    def _forget(self, gone: ref) -> None:
        if self._here.last is not None and self._here.last[0] is gone:
            self._here.last = None

    def begin(self, module: nn.Module, args: Any) -> None:
        """A forward pass of the whole model begins; in a compiled one nothing is kept here."""
        if torch.compiler.is_compiling():
            return
        self._here.inside, self._here.last = True, None

    def end(self, module: nn.Module, args: Any, result: Any) -> None:
        """The pass is over, or has failed."""
        if torch.compiler.is_compiling():
            return
        self._here.inside, self._here.last = False, None

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.counter, self.activations)  # a copy begins with nothing written
