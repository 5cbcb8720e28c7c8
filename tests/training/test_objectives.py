"""The loss is torch's cross entropy, with one copy of the logits."""

import pytest
import torch

from pennyweight.training import objectives
from pennyweight.training.objectives import cross_entropy


@pytest.mark.parametrize("rows_bytes", [1, 1 << 21])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_cross_entropy(dtype, rows_bytes, monkeypatch):
    monkeypatch.setattr(objectives, "ROWS_BYTES", rows_bytes)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(37, 11, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, 11, (37,), generator=generator)
    ours = cross_entropy(logits, targets)
    (2 * ours).backward()
    gradient = logits.grad.clone()
    logits.grad = None
    theirs = torch.nn.functional.cross_entropy(logits.float(), targets)
    (2 * theirs).backward()
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-6)  # float32: another order of sums
    assert gradient.dtype == dtype
    # 1e-5: exp in float32 of a difference near 10; in bf16 that may fall on the other side of one rounding
    rtol = max(1e-5, torch.finfo(dtype).eps)
    assert torch.allclose(gradient.float(), logits.grad.float(), rtol=rtol, atol=1e-8)


def test_certain_and_wrong_is_the_logits_distance():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert cross_entropy(logits, torch.tensor([0, 0])).item() == 50.0


def test_only_the_logits_as_they_came_are_kept():
    logits = torch.randn(256, 512).bfloat16().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cross_entropy(logits, torch.zeros(256, dtype=torch.int64))
    assert sum(t.nbytes for t in kept) == 256 * 512 * 2 + 256 * 8 + 256 * 4


def test_the_gradient_is_what_finite_differences_say():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 1])
    loss = cross_entropy(logits, targets)
    loss.backward()
    with torch.no_grad():
        for place in [(0, 0), (0, 1), (2, 3)]:
            step = torch.zeros_like(logits)
            step[place] = 1e-2
            slope = (cross_entropy(logits + step, targets) - cross_entropy(logits - step, targets)) / 2e-2
            # 1e-3: the loss is float32 (1e-7 relative over a step of 2e-2) and the curve bends (1e-4)
            assert slope.item() == pytest.approx(logits.grad[place].item(), abs=1e-3)
