"""What the tests of converted layers share: all that one pass through a layer gives, and when two ways of it agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def results() -> Callable[..., list[Tensor]]:
    """Of a model and an input: the output, the gradient of the input and of every parameter, of the output squared."""

    def made(model: nn.Module, x: Tensor, *, autocast: bool) -> list[Tensor]:
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            y = model(x)
        (y.float() ** 2).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        assert x.grad is not None
        return [y.detach(), x.grad, *(gradient for gradient in gradients if gradient is not None)]

    return made


@pytest.fixture
def agree() -> Callable[[list[Tensor], list[Tensor], float], None]:
    """Checks that two lists of tensors have the same dtypes, and numbers as close as a share of the largest one."""

    def check(fast: list[Tensor], slow: list[Tensor], tolerance: float) -> None:
        for one, other in zip(fast, slow, strict=True):
            assert one.dtype == other.dtype
            bound = tolerance * float(other.abs().max())
            torch.testing.assert_close(one.float(), other.float(), rtol=tolerance, atol=bound)

    return check
