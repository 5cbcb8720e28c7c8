"""Finiteness: gradients somebody vouched for are not read again, until they change."""

import math

import pytest
import torch
from torch import nn

from pennyweight.optim import AdamW, finiteness, vouch
from pennyweight.optim.finiteness import finite


def test_each_gradient_is_answered_for() -> None:
    bad, infinite, halves = torch.ones(5, 7), torch.ones(3), torch.full((40,), 6e4, dtype=torch.float16)
    bad[4, 6], infinite[1] = math.nan, -math.inf
    huge = torch.full((4,), 1e200, dtype=torch.float64)  # its squares overflow
    given = [torch.ones(4), bad, torch.full((9,), 3e38), infinite, halves, huge, torch.ones(6, 2).t(), torch.empty(0)]
    assert finite(given) == [True, False, True, False, True, True, True, True]


def test_a_vouched_gradient_is_not_read_and_a_changed_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = finiteness.squares
    monkeypatch.setattr(finiteness, "squares", lambda given: (asked.append(len(given)), real(given))[1])
    one, two = torch.ones(4), torch.ones(4)
    vouch([one, two])
    assert finite([one, two]) == [True, True]
    two.mul_(math.inf)
    assert finite([one, two]) == [True, False]
    assert asked == [0, 1]


def test_a_gradient_that_backward_adds_to_is_read_again() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    assert parameter.grad is not None
    vouch([parameter.grad])
    (parameter * math.inf).sum().backward()
    with pytest.raises(FloatingPointError, match="holds NaN or infinity"):
        optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3, 4))
