"""Motion: whether the written moments still move: zeros, stalls, bias, and steps that are too long."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.optim.adamw import AdamW
from pennyweight.optim.update import Plan, Step


@dataclass(frozen=True)
class Motion:
    """What writing the next fresh m and v of one tensor does to them. Shares are of all elements of the tensor.

    zero_share:       the code decodes to 0 while the fresh value is not; for v any value above 0 is a warning.
    stall_share:      the stored value stays although the fresh one differs; stall_share_code: the code stays.
    v_bias:           sum of the stored v over the sum of the fresh v; 1 where writing is unbiased.
    v_under:          share of the elements whose stored v is below half the fresh one.
    ratio_max:        the largest |m| / sqrt(v) of the fresh values; exact Adam keeps it within ratio_bound.
    """

    zero_share_m: float
    zero_share_v: float
    stall_share_m: float
    stall_share_v: float
    stall_share_code_m: float
    stall_share_code_v: float
    v_bias: float
    v_under: float
    ratio_max: float
    ratio_bound: float


def ratio_bound(beta1: float, beta2: float) -> float:
    """The largest |m| / sqrt(v) of exact averages: (1-b1) / sqrt((1-b2)(1-b1^2/b2)); infinite if b1^2 >= b2."""
    if beta1**2 >= beta2:
        return math.inf
    return (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))


def motion(
    gradient: Tensor,
    state: Mapping[str, Tensor],
    step: int,
    plan: Plan,
    *,
    shape: tuple[int, ...] | None = None,
) -> Motion:
    """How the moments of one whole parameter would move with this gradient at this step; changes nothing.

    Arguments as in `update_`. Holds a few float32 copies of the tensor while it looks.
    Source: Topollai & Choromanska, arXiv:2603.16731 (stalled averages); the bound is attained at g_(t-k) ~ (b1/b2)^k.
    """
    shape = tuple(gradient.shape) if shape is None else shape
    gradient = gradient.reshape(-1).float()
    after = {name: tensor.clone() for name, tensor in state.items()}
    slots = {"m": plan.m, "v": plan.v}
    old = {slot: one.read(slot, state, shape, 0, gradient.numel()).float().clone() for slot, one in slots.items()}
    fresh = {slot: tensor.clone() for slot, tensor in old.items()}
    Step.at(step, plan.hyper).average(gradient, fresh["m"], fresh["v"])
    found: dict[str, float] = {}
    for slot, one in slots.items():
        one.write(slot, after, fresh[slot].clone(), shape, 0, key=plan.keys.get(slot))
        now = one.read(slot, after, shape, 0, gradient.numel()).float()
        moved = fresh[slot] != old[slot]
        same_code = now == old[slot] if one.plain else one.codes(slot, after, shape) == one.codes(slot, state, shape)
        found[f"zero_share_{slot}"] = _share((now == 0) & (fresh[slot] != 0))
        found[f"stall_share_{slot}"] = _share((now == old[slot]) & moved)
        found[f"stall_share_code_{slot}"] = _share(same_code & moved)
        if slot == "v":
            total = fresh["v"].double().sum().item()
            found["v_bias"] = now.double().sum().item() / total if total else 1.0
            found["v_under"] = _share(now < fresh["v"] / 2)
    positive = fresh["v"] > 0
    ratio = fresh["m"][positive].abs() / fresh["v"][positive].sqrt()
    found["ratio_max"] = ratio.max().item() if ratio.numel() else 0.0
    return Motion(**found, ratio_bound=ratio_bound(plan.hyper.beta1, plan.hyper.beta2))


@torch.no_grad()
def motions(optimizer: AdamW) -> dict[str, Motion]:
    """The motion of every parameter that has a gradient, by name, as the next `step()` would cause it."""
    result = {}
    for name, parameter, plan in optimizer.plans():
        if parameter.grad is None:
            continue
        state = optimizer.state[parameter] if parameter in optimizer.state else plan.nothing(parameter)
        result[name] = motion(
            parameter.grad,
            state,
            int(state["step"]) + 1,
            plan,
            shape=tuple(parameter.shape),
        )
    return result


def _share(which: Tensor) -> float:
    return which.double().mean().item() if which.numel() else 0.0
