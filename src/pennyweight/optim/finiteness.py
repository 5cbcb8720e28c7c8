"""Finiteness: which gradients hold a NaN or an infinity, and which are known to hold none."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pennyweight.kernels import squares

VOUCHED = "pennyweight_finite"  # attribute of a gradient: its version when somebody saw that it is finite


def vouch(gradients: Sequence[Tensor]) -> None:
    """Says of these gradients that they are finite, until they change: no optimizer here reads them all to find out.

    For who has taken their norm anyway. A change that PyTorch does not count (through `.data` or NumPy) is not seen.
    """
    for gradient in gradients:
        setattr(gradient, VOUCHED, gradient._version)


def finite(gradients: Sequence[Tensor]) -> list[bool]:
    """Whether each of these gradients holds neither NaN nor infinity."""
    known = [getattr(gradient, VOUCHED, None) for gradient in gradients]
    answers = [
        version is not None and version == gradient._version for gradient, version in zip(gradients, known, strict=True)
    ]
    asked = [index for index, answer in enumerate(answers) if not answer]
    for index, square in zip(asked, squares([gradients[index] for index in asked]), strict=True):
        # Finite squares prove finite numbers; those of float64 may overflow, so look twice.
        answers[index] = square < float("inf") or bool(torch.isfinite(gradients[index]).all())
    return answers
