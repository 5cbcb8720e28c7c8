"""The noise of the Triton kernels is the counted noise, bit for bit."""

from types import ModuleType

import pytest
import torch

from pennyweight.numerics import noise

pytest.importorskip("triton", reason="Triton is not installed")

from pennyweight.kernels.gpu.adamw import _halves  # noqa: E402
from pennyweight.kernels.gpu.language import jit, tl  # noqa: E402
from pennyweight.kernels.gpu.noise import halves  # noqa: E402


@jit(do_not_specialize=["low", "high", "start"])
def kernel(out_ptr, low, high, start):
    place = tl.arange(0, 128)
    tl.store(out_ptr + place, halves(place + start.to(tl.int64), low, high))


@pytest.mark.parametrize("key", [0, 1, (1 << 63) + 12345, 987654321987, (1 << 64) - 1])
@pytest.mark.parametrize("start", [0, (1 << 32) - 50, 1 << 40])
def test_the_noise_is_the_counted_noise(ops: ModuleType, device: str, key: int, start: int) -> None:
    out = torch.empty(128, device=device)
    kernel[(1,)](out, *_halves(key), start)
    assert torch.equal(out.cpu(), noise.halves(key, (128,), start=start))
