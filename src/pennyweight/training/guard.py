"""The guard: what stops a training, and which step and layer it was."""

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from torch import Tensor, nn


class TrainingFailed(RuntimeError):
    """A run that was asked for rightly and failed: a loss that is no number, a full disk. Its text is one sentence."""


class DiskFull(TrainingFailed):
    """Nothing more can be written. What stands on the disk stands, and the run goes on once there is room."""


class Diverged(TrainingFailed):
    """The loss or the gradient is no longer a finite number."""

    def __init__(self, sentence: str, *, step: int, where: str, what: str = "") -> None:
        super().__init__(sentence)
        self.step = step
        self.where = where
        self.what = what or sentence


def first_bad(model: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """Where NaN or infinity first appears: in a weight, in a layer's output, in the loss, or in a gradient.

    None: everything is finite.

    Runs `loss` once more, forward and backward, with a look at what every innermost layer gives.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name}"
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # Any: a layer may take and give anything
            if isinstance(output, Tensor) and not found and not output.isfinite().all():
                found.append(f"the output of layer {name}")

        return hook

    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if not any(m.children())]
    try:
        value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    if not value.isfinite():
        return "the loss itself, with every layer's output finite"
    return _bad_gradient(model, value)


def _bad_gradient(model: nn.Module, value: Tensor) -> str | None:
    for parameter in model.parameters():
        parameter.grad = None
    value.backward()
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {bad[-1]}" if bad else None  # backward runs from the last layer to the first


class Interrupt:
    """Turns the first Ctrl-C into a wish (`asked`) that the loop grants after its step; the second stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        try:
            self._before = signal.signal(signal.SIGINT, self._first)
        except ValueError:  # only the main thread may listen to signals; elsewhere Ctrl-C is the main thread's affair
            self._before = None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("Ctrl-C: the step is finished and saved; once more stops at once.", file=sys.stderr, flush=True)
