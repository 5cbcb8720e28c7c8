"""The compiled AdamW step on 8-bit moments meets the readable one: the same noise, codes, weights and scales."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, library

from pennyweight.kernels import compiled, steps_at_once
from pennyweight.optim.notation import moment
from pennyweight.optim.update import Hyper, Part, Plan, update, update_, update_all_

pytestmark = pytest.mark.skipif(
    compiled.missing() is not None or not torch.ops.pennyweight.has_adamw(), reason="no compiled AdamW on this machine"
)

KEYS = {"m": (1 << 63) + 12345, "v": 987654321987}


def plan(rounding: str, m_block: int = 128, v_block: int = 256, **hyper: float) -> Plan:
    m, v = moment(f"int8/block{m_block}", "m", rounding), moment(f"log8/block{v_block}", "v", rounding)
    return Plan(Hyper(**{"weight_decay": 0.1, **hyper}), m=m, v=v, keys=KEYS)


def trained(
    how: Plan, weights: Tensor, gradients: list[Tensor], monkeypatch: pytest.MonkeyPatch, *, fast: bool, start: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights and state after one step a gradient, by the compiled way or by the readable one."""
    with monkeypatch.context() as patch:
        if not fast:
            patch.setattr(compiled, "missing", lambda: "hidden by a test")
        assert steps_at_once(how.m.cast, how.v.cast, weights, gradients[0], start) == fast
        state = how.nothing(weights)
        for step, gradient in enumerate(gradients, start=1):
            weights, state = update(weights, gradient, state, step, how, start=start)
    return weights, state


def some_gradients(size: int, steps: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Spread over ten decades, with a stretch of zeros longer than a block."""
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(size, generator=generator) * torch.logspace(-8, 2, size) for _ in range(steps)]
    for gradient in gradients:
        gradient[: size // 4] = 0
    return [gradient.to(dtype) for gradient in gradients]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("size", [4096, 5000, 4097, 255, 1])
@pytest.mark.parametrize("blocks", [(128, 256), (256, 128), (64, 64), (32, 2048)])
def test_one_step_gives_the_same_codes_and_weights(
    rounding: str, size: int, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    how, weights, gradients = plan(rounding, *blocks), torch.randn(size), some_gradients(size, 1)
    fast, fast_state = trained(how, weights, gradients, monkeypatch, fast=True, start=1 << 33)
    slow, slow_state = trained(how, weights, gradients, monkeypatch, fast=False, start=1 << 33)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-8)
    for name in ("m.codes", "v.codes"):
        apart = (fast_state[name].int() - slow_state[name].int()).abs()
        assert int(apart.max()) <= 1
        assert float((apart > 0).float().mean()) <= 1e-3
    for name in ("m.scales", "v.scales", "v.extra"):
        torch.testing.assert_close(fast_state[name], slow_state[name], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thirty_steps_end_at_the_same_weights(
    rounding: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, weights, gradients = plan(rounding), torch.randn(5000), some_gradients(5000, 30, dtype)
    fast, _ = trained(how, weights, gradients, monkeypatch, fast=True)
    slow, _ = trained(how, weights, gradients, monkeypatch, fast=False)
    assert float((fast - slow).abs().max()) < 2e-3  # one code apart moves a step by less than two hundredths of lr
    assert float((fast - slow).abs().mean()) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e20, 3e38])
def test_gradients_beyond_all_numbers_end_as_in_the_readable_step(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = some_gradients(4096, 2)
    gradients[0][2000] = bad
    how, weights = plan("nearest"), torch.randn(4096)
    fast, fast_state = trained(how, weights, gradients[:1], monkeypatch, fast=True)
    slow, slow_state = trained(how, weights, gradients[:1], monkeypatch, fast=False)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-8, equal_nan=True)
    for name in ("m.scales", "v.scales", "v.extra"):
        torch.testing.assert_close(fast_state[name], slow_state[name], rtol=1e-5, atol=1e-30, equal_nan=True)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    how, weights, gradients = plan("stochastic"), torch.randn(100_000), some_gradients(100_000, 2)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(trained(how, weights, gradients, monkeypatch, fast=True))
    torch.set_num_threads(1)
    (one, one_state), (three, three_state) = results
    assert torch.equal(one, three)
    assert all(torch.equal(one_state[name], three_state[name]) for name in one_state)


def test_slices_and_casts_whose_noise_comes_otherwise_go_the_readable_way() -> None:
    how, other, weights = plan("stochastic"), plan("nearest"), torch.randn(64)
    assert steps_at_once(how.m.cast, how.v.cast, weights, weights, 32)
    assert not steps_at_once(how.m.cast, how.v.cast, weights, weights, 16)
    assert not steps_at_once(how.m.cast, other.v.cast, weights, weights)
    assert not steps_at_once(plan("stochastic", m_block=16).m.cast, how.v.cast, weights, weights)


def test_zeros_among_the_second_moments_take_the_smallest_code(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.linspace(1, 2, 512)
    gradient[::7] = 0
    how, weights = plan("nearest"), torch.randn(512)
    _, fast = trained(how, weights, [gradient], monkeypatch, fast=True)
    assert fast["v.codes"].view(-1)[::7].max() == 0
    assert fast["v.extra"][0] < 2  # octaves: log2 of the largest square of a block over its smallest positive one


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_many_tensors_in_one_call_step_as_each_one_by_itself(rounding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, kinds = (5000, 1, 300, 4096, 100_000), (torch.float32, torch.bfloat16)
    singles, parts = [], []
    for number, size in enumerate(sizes):
        how = replace(plan(rounding, lr=10.0**-number), keys={"m": number, "v": (1 << 64) - 1 - number})
        weights, gradient = torch.randn(size), some_gradients(size, 1, kinds[number % 2])[0]
        state, step = how.nothing(weights), number + 1
        singles.append(update(weights, gradient, state, step, how))
        parts.append(Part(weights, gradient, state, step, how, (size,)))
    other = Part(torch.randn(64), torch.randn(64), {"m": torch.zeros(64), "v": torch.zeros(64)}, 1, Plan(), (64,))
    singles.append(update(other.weights, other.gradient, other.state, 1, Plan()))
    calls: list[tuple] = []
    module = sys.modules["pennyweight.optim.update"]  # of the same name as the function
    monkeypatch.setattr(module, "adamw_step", lambda *given, **named: calls.append(given))
    for threads in (3, 1):  # a second call would step again: copies
        torch.set_num_threads(threads)
        copies = [
            replace(part, weights=part.weights.clone(), state={k: t.clone() for k, t in part.state.items()})
            for part in [*parts, other]
        ]
        update_all_(copies)
        for copy, (weights, state) in zip(copies, singles, strict=True):
            assert torch.equal(copy.weights, weights)
            assert all(torch.equal(copy.state[name], state[name]) for name in state)
    assert not calls


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_operator_on_many_tensors_is_what_pytorch_asks_of_it(rounding: str) -> None:
    how, noisy = plan(rounding), rounding == "stochastic"
    weights, gradients = [torch.randn(300), torch.randn(64)], [torch.randn(300), torch.randn(64)]
    states = [how.nothing(one) for one in weights]
    lists = [[state[part] for state in states] for part in ("m.codes", "m.scales", "v.codes", "v.scales", "v.extra")]
    scalars = [1.0, 0.1, 0.95, 0.05, 1.0, 1e-3, 1e-8, 40.0] * 2
    keys = ([17, 1], [-5, 2]) if noisy else ([], [])
    library.opcheck(
        torch.ops.pennyweight.adamw_steps.default,
        (weights, gradients, *lists[:2], 128, *lists[2:], 256, scalars, *keys),
    )


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_operator_is_what_pytorch_asks_of_it(rounding: str) -> None:
    how = plan(rounding)
    weights, gradient = torch.randn(300), some_gradients(300, 1)[0]
    state = how.nothing(weights)
    keys = (17, -5) if rounding == "stochastic" else (None, None)
    scalars = [1.0, 0.1, 0.95, 0.05, 1.0, 1e-3, 1e-8, 40.0]
    library.opcheck(
        torch.ops.pennyweight.adamw_step.default,
        (weights, gradient, state["m.codes"], state["m.scales"], 128, state["v.codes"], state["v.scales"],
         state["v.extra"], 256, scalars, *keys, 0),
    )  # fmt: skip


def test_weights_that_a_step_writes_before_backward_reads_them_are_noticed() -> None:
    weights = torch.randn(64, requires_grad=True)
    product = (weights * torch.ones(64, requires_grad=True)).sum()
    how, held = plan("nearest"), weights.detach()
    assert steps_at_once(how.m.cast, how.v.cast, held, held)
    update_(held, torch.randn(64), how.nothing(held), 1, how)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
