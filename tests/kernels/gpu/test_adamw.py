"""The AdamW step in Triton meets the readable one: the same weights and scales, and codes a step apart at most."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, library

from pennyweight.kernels import operators, steps_at_once
from pennyweight.optim.notation import moment
from pennyweight.optim.update import Hyper, Plan, update

KEYS = {"m": (1 << 63) + 12345, "v": 987654321987}


def plan(rounding: str, m_block: int = 128, v_block: int = 256) -> Plan:
    m, v = moment(f"int8/block{m_block}", "m", rounding), moment(f"log8/block{v_block}", "v", rounding)
    return Plan(Hyper(weight_decay=0.1), m=m, v=v, keys=KEYS)


def trained(
    how: Plan, weights: Tensor, gradients: list[Tensor], monkeypatch: pytest.MonkeyPatch, there: ModuleType | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights and state after one step a gradient, by the operators of a GPU or by the readable way."""
    with monkeypatch.context() as patch:
        patch.setattr(operators, "fused", lambda device: there)
        assert steps_at_once(how.m.cast, how.v.cast, weights, gradients[0]) == (there is not None)
        state = how.nothing(weights)
        for step, gradient in enumerate(gradients, start=1):
            weights, state = update(weights, gradient, state, step, how, start=1 << 33)
    return weights.cpu(), {name: tensor.cpu() for name, tensor in state.items()}


def both(
    how: Plan, size: int, gradients: list[Tensor], monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str
) -> tuple[tuple[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(2))
    moved = [gradient.to(device) for gradient in gradients]
    fast = trained(how, weights.to(device), moved, monkeypatch, ops)
    return fast, trained(how, weights, gradients, monkeypatch, None)


def some_gradients(size: int, steps: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Spread over ten decades, with a stretch of zeros longer than a block."""
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(size, generator=generator) * torch.logspace(-8, 2, size) for _ in range(steps)]
    for gradient in gradients:
        gradient[: size // 4] = 0
    return [gradient.to(dtype) for gradient in gradients]


def assert_scales_meet(fast: dict[str, Tensor], slow: dict[str, Tensor]) -> None:
    for name in ("m.scales", "v.scales", "v.extra"):  # 1e-5: fused products move the moments by 2^-24, log2 by 2^-21
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("size", [2100, 1])
@pytest.mark.parametrize("blocks", [(128, 256), (256, 128), (64, 64), (32, 2048)])
def test_one_step_gives_the_same_codes_and_weights(
    rounding: str, size: int, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str
) -> None:
    (fast, fast_state), (slow, slow_state) = both(
        plan(rounding, *blocks), size, some_gradients(size, 1), monkeypatch, ops, device
    )
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-8)
    for name in ("m.codes", "v.codes"):
        apart = (fast_state[name].int() - slow_state[name].int()).abs()
        assert int(apart.max()) <= 1
        assert float((apart > 0).float().mean()) <= 1e-3
    assert_scales_meet(fast_state, slow_state)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_six_steps_end_at_the_same_weights(
    rounding: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str
) -> None:
    (fast, _), (slow, _) = both(plan(rounding), 1500, some_gradients(1500, 6, dtype), monkeypatch, ops, device)
    assert float((fast - slow).abs().max()) < 2e-3  # one code apart moves a step by less than two hundredths of lr
    assert float((fast - slow).abs().mean()) < 1e-6


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's overflow, inside the interpreter
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e20, 3e38])
def test_gradients_beyond_all_numbers_end_as_in_the_readable_step(
    bad: float, monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str
) -> None:
    gradients = some_gradients(1024, 1)
    gradients[0][700] = bad
    (fast, fast_state), (slow, slow_state) = both(plan("nearest"), 1024, gradients, monkeypatch, ops, device)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-8, equal_nan=True)
    assert_scales_meet(fast_state, slow_state)


def test_a_slice_sees_the_noise_of_the_whole(monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str) -> None:
    how, weights, gradient = plan("stochastic"), torch.randn(1000, device=device), torch.randn(1000, device=device)
    monkeypatch.setattr(operators, "fused", lambda device: ops)
    _, whole = update(weights, gradient, how.nothing(weights), 1, how)
    rest = weights[512:]
    _, part = update(rest, gradient[512:], how.nothing(rest), 1, how, start=512)
    assert torch.equal(part["m.codes"], whole["m.codes"][512:])
    assert torch.equal(part["v.codes"], whole["v.codes"][512:])


def test_moments_that_do_not_change_keep_their_codes_under_noise(
    monkeypatch: pytest.MonkeyPatch, ops: ModuleType, device: str
) -> None:
    gradient = some_gradients(4096, 1)[0]
    _, state = trained(plan("nearest"), torch.zeros(4096), [gradient], monkeypatch, None)
    moved = {name: tensor.to(device) for name, tensor in state.items()}
    still = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1e-8, 40.0]  # nothing of the gradient comes in, nothing fades
    moments = [moved["m.codes"], moved["m.scales"], 128, moved["v.codes"], moved["v.scales"], moved["v.extra"], 256]
    nothing = torch.zeros(4096, device=device)
    ops.adamw_step(nothing.clone(), nothing, *moments, still, 12345, 67890, 0)
    assert torch.equal(moved["m.codes"].cpu(), state["m.codes"])
    assert torch.equal(moved["v.codes"].cpu(), state["v.codes"])


@pytest.mark.parametrize("block", [48, 2048 + 128])
def test_blocks_that_no_kernel_holds_take_another_door(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "fused", lambda device: pytest.fail("asked for a kernel"))
    how = plan("nearest", m_block=block, v_block=block)
    assert not steps_at_once(how.m.cast, how.v.cast, torch.empty(10, device="meta"), torch.empty(10, device="meta"))


def test_the_operator_passes_torchs_own_checks(ops: ModuleType, device: str) -> None:
    state = plan("nearest").nothing(torch.zeros(300, device=device))
    step = [1.0, 0.1, 0.999, 0.001, 1.0, 1e-3, 1e-8, 40.0]
    moments = [state["m.codes"], state["m.scales"], 128, state["v.codes"], state["v.scales"], state["v.extra"], 256]
    weights, gradient = torch.randn(300, device=device), torch.randn(300, device=device)
    library.opcheck(torch.ops.pennyweight_gpu.adamw_step.default, (weights, gradient, *moments, step, 5, None, 0))
