"""Synchronous training: every gradient is finished before the step that uses it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Synchronous:
    """One process computes the whole gradient, then the optimizer steps: nobody speaks, nobody waits.

    Ancestor: the plain PyTorch loop, bit for bit.
    Costs:    no message, no copy.
    """

    def step(self, gradient: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        """Takes one optimizer step and returns the loss at the point where it began.

        `gradient` clears and fills every parameter's `.grad` and returns the loss (a scalar tensor); the optimizer
        calls it as often as its method needs (AdamW once, SAM twice).
        """
        losses: list[Tensor] = []

        def recorded() -> Tensor:
            losses.append(gradient())
            return losses[-1]

        optimizer.step(recorded)  # type: ignore[arg-type]  # torch's stub asks for a float; its optimizers take tensors
        return losses[0]
