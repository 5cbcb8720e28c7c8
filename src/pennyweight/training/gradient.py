"""The gradient point: clear, accumulate over the micro-batches, look, clip."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pennyweight.kernels import squares
from pennyweight.optim import vouch
from pennyweight.recipes.precision import precise

Objective = Callable[[nn.Module, Tensor], Tensor]


@dataclass(kw_only=True)
class Gradient:
    """What a strategy hands to an optimizer: calling it fills every `.grad` and returns the mean loss.

    The gradient is of the mean over all micro-batches of a step. When it is complete and its norm is above `clip`, it
    is multiplied once by clip over that norm; or, where `previous` is given, by clip over the norm of the step before.
    `check` is told the loss and the norm before anything is clipped, and raises when they are not finite.
    """

    model: nn.Module
    objective: Objective
    precision: str
    clip: float | None
    batches: list[Tensor]  # [batch, context + 1] each
    check: Callable[..., None]  # (loss, norm), and where it went wrong as `where`, if that is known
    watch: Callable[[], AbstractContextManager[object]] = nullcontext  # around each forward pass: memory is measured
    previous: float | None = None  # the norm by which is clipped; None: the gradient's own
    norm: float = field(default=math.nan, init=False)
    memory_bytes: int = field(default=0, init=False)  # of the gradients that stood together

    def __call__(self) -> Tensor:
        """Fills the gradients; returns the mean loss of the step, a float32 scalar."""
        self.clear()
        total = torch.zeros((), device=self.batches[0].device)
        for batch in self.batches:
            with self.watch():
                loss = self.loss(batch)
            (loss / len(self.batches)).backward()
            total += loss.detach()
        total /= len(self.batches)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norm = norm(gradients)
        self.memory_bytes = sum(gradient.nbytes for gradient in gradients)
        self.check(total, self.norm)
        if (factor := cut(self.clip, self.norm if self.previous is None else self.previous)) is not None:
            for gradient in gradients:
                gradient.mul_(factor)
        if math.isfinite(self.norm):
            vouch(gradients)
        return total

    def loss(self, batch: Tensor) -> Tensor:
        """The loss of one micro-batch, with its graph."""
        with precise(self.precision, batch.device.type):
            return self.objective(self.model, batch)

    def clear(self) -> None:
        """Gives the gradients' memory back."""
        for parameter in self.model.parameters():
            parameter.grad = None


def cut(clip: float | None, norm: float) -> float | None:
    """What a gradient is multiplied by so that a gradient of this norm gets the norm `clip`; None: by nothing."""
    return clip / norm if clip is not None and norm > clip else None


def norm(gradients: list[Tensor]) -> float:
    """The Euclidean norm of all gradients as one vector; finite gradients of float32 and below have a finite one."""
    return math.sqrt(sum(squares(gradients)))
