"""Telemetry of the moments: each figure on a case small enough to count by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from pennyweight.optim import AdamW, Hyper, Moment, Plan, moment, motion, motions, update_
from pennyweight.optim.motion import ratio_bound

CPU = torch.device("cpu")


def state_of(m: Moment, v: Moment, number: int) -> dict[str, torch.Tensor]:
    parts = [one.nothing(slot, (number,), device=CPU, dtype=torch.float32) for slot, one in (("m", m), ("v", v))]
    return parts[0] | parts[1]


@pytest.mark.parametrize(("betas", "bound"), [((0.9, 0.999), 7.27), ((0.9, 0.99), 2.35), ((0.9, 0.95), 1.16)])
def test_the_bound_is_the_one_of_the_three_usual_settings(betas: tuple[float, float], bound: float) -> None:
    assert ratio_bound(*betas) == pytest.approx(bound, abs=0.005)
    assert ratio_bound(0.99, 0.9) == math.inf


def test_the_bound_is_attained_by_geometric_gradients() -> None:
    b1, b2 = 0.9, 0.95
    m = v = 0.0
    for k in reversed(range(400)):
        g = (b1 / b2) ** k
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    assert m / math.sqrt(v) == pytest.approx(ratio_bound(b1, b2), rel=1e-6)


def test_small_second_moments_fall_into_the_zero_of_a_linear_code() -> None:
    v = moment("int8/block128-with-zero", "v", "nearest")
    gradient = torch.full((128,), 0.06)  # 0.0036 of the largest square: below half of 1/127
    gradient[:28] = 1.0
    gradient[28:38] = 0.1  # 1.27 of 127: stored as 1, three quarters of itself
    gradient[100:] = 0.0
    seen = motion(gradient, state_of(Moment(), v, 128), 1, Plan(v=v))
    assert seen.zero_share_v == 62 / 128
    assert seen.zero_share_m == 0
    assert seen.v_under == 62 / 128
    stored, fresh = 28 + 10 / 127, 28 + 10 * 0.01 + 62 * 0.0036
    assert seen.v_bias == pytest.approx(stored / fresh, rel=1e-6)  # float32 squares


def test_a_moment_that_rounds_back_is_a_stall() -> None:
    m = moment("int8/block128", "m", "nearest")
    state = state_of(m, Moment(), 128)
    state["m.codes"][:65], state["m.scales"][0] = 3, 1.0  # 3 * 0.9 = 2.7 rounds back to 3
    state["m.codes"][0] = 127
    gradient = torch.zeros(128)
    gradient[0] = 127.0
    seen = motion(gradient, state, 2, Plan(Hyper(beta1=0.9), m=m))
    assert seen.stall_share_m == seen.stall_share_code_m == 64 / 128


def test_a_falling_scale_moves_values_whose_codes_stay() -> None:
    m = moment("int8/block128", "m", "nearest")
    state = state_of(m, Moment(), 128)
    state["m.codes"][:], state["m.scales"][0] = 127, 1.0
    seen = motion(torch.zeros(128), state, 2, Plan(Hyper(beta1=0.9), m=m))
    assert (seen.stall_share_m, seen.stall_share_code_m) == (0.0, 1.0)


def test_a_lost_second_moment_shows_as_a_ratio_above_the_bound() -> None:
    state = state_of(Moment(), Moment(), 4)
    state["m"] += 1.0
    state["v"] += torch.tensor([1.0, 1.0, 1.0, 1e-6])
    seen = motion(torch.zeros(4), state, 2, Plan())
    assert seen.ratio_max == pytest.approx(0.9 / math.sqrt(0.999 * 1e-6), rel=1e-5)  # float32 root
    assert seen.ratio_max > 1.5 * seen.ratio_bound


def test_looking_changes_nothing_and_tells_what_the_step_then_does() -> None:
    weight = nn.Parameter(torch.randn(64, 80))
    bias = nn.Parameter(torch.randn(64))
    optimizer = AdamW([("weight", weight), ("bias", bias)], m="int4/block128", v="log4")
    for step in range(3):
        weight.grad = torch.randn(64, 80, generator=torch.Generator().manual_seed(step))
        seen = motions(optimizer)
        assert seen.keys() == {"weight"}
        before = copy.deepcopy(dict(optimizer.state[weight])) if step else None
        assert (weight in optimizer.state) == bool(step)
        optimizer.step()
        if before is None:
            continue
        one = moment("int4/block128", "m")
        old = one.read("m", before, (64, 80), 0, weight.numel())
        fresh = old.lerp(weight.grad.view(-1), 1 - 0.9)
        now = one.read("m", optimizer.state[weight], (64, 80), 0, weight.numel())
        assert seen["weight"].zero_share_m == ((now == 0) & (fresh != 0)).double().mean().item()
        assert seen["weight"].stall_share_m == ((now == old) & (fresh != old)).double().mean().item()
        assert seen["weight"].zero_share_v == 0


def test_unwritten_moments_never_stall_and_have_no_bias() -> None:
    state = state_of(Moment(), Moment(), 1000)
    for step in range(1, 4):
        gradient = torch.randn(1000)
        seen = motion(gradient, state, step, Plan())
        assert (seen.zero_share_m, seen.zero_share_v, seen.stall_share_v, seen.v_under) == (0, 0, 0, 0)
        assert seen.v_bias == 1.0
        assert seen.ratio_max <= seen.ratio_bound
        update_(torch.zeros(1000), gradient, state, step, Plan())
