"""The AdamW update: new weights and new moments from a gradient, as a pure function on flat slices.

The moments' codes are read, the fresh moments move the weights, and the fresh moments are written again; one chunk of
elements after the other, so that every temporary stays in the processor's cache.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pennyweight.kernels import adamw_step, adamw_step_on_codes, adamw_steps, rewrites_at_once, steps_at_once
from pennyweight.numerics import Cast, Stored
from pennyweight.optim.moments import Moment

CHUNK = {"cpu": 1 << 17}  # elements: on two threads a chunk's few float32 temporaries stay in the cores' 2 MiB caches
LARGE_CHUNK = 1 << 24  # on other devices: enough work for each launch
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Hyper:
    """What AdamW is told: lr (may be a tensor), the averages' decays, eps outside the root, decoupled weight decay."""

    lr: float | Tensor = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2


@dataclass(frozen=True)
class Plan:
    """How one parameter takes its next step.

    hyper:  the settings of AdamW.
    m, v:   the storage of the moments.
    cast:   how weights without a master copy are rounded after the update (None: they are the master).
    keys:   noise keys of "m", "v" and "weights", needed where a cast rounds stochastically.
    dtype:  of unwritten moments: as in torch the parameter's where its group writes nothing, else at least float32.
    """

    hyper: Hyper = Hyper()
    m: Moment = Moment()
    v: Moment = Moment()
    cast: Cast | None = None
    keys: Mapping[str, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    def nothing(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""
        state = {"step": torch.tensor(0.0)}
        for slot, one in (("m", self.m), ("v", self.v)):
            state |= one.nothing(slot, tuple(parameter.shape), device=parameter.device, dtype=self.dtype)
        return state


def update(
    weights: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    step: int,
    plan: Plan,
    *,
    start: int = 0,
    shape: tuple[int, ...] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """New weights and a new state; the arguments stay as they are. See `update_` for their meaning."""
    weights, state = weights.clone(), {name: tensor.clone() for name, tensor in state.items()}
    update_(weights, gradient, state, step, plan, start=start, shape=shape)
    return weights, state


def update_(
    weights: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    step: int,
    plan: Plan,
    *,
    start: int = 0,
    shape: tuple[int, ...] | None = None,
) -> None:
    """One AdamW step in place on a flat slice of a parameter and of its moments.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w = w (1 - lr wd) - lr (m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps)
    with the fresh m and v, which are then written by their casts.

    weights, gradient: [n], elements start … start + n of the flattened parameter; a slice begins at a block edge.
    state:    the slice's stored moments ("m", "v", "m.codes", "m.scales" …), as `Moment.nothing` makes them.
    step:     of this update, counted from 1.
    shape:    of the parameter; needed by row and tensor scales, which want the whole parameter at once.
    Source:   Loshchilov & Hutter, arXiv:1711.05101; Dettmers et al., arXiv:2110.02861 (written moments).
    Ancestor: m = v = fp32, no cast: torch.optim.AdamW(foreach=False, fused=False), bit for bit.
    """
    shape = tuple(weights.shape) if shape is None else shape
    m, v, cast, keys = plan.m, plan.v, plan.cast, plan.keys
    # Torch's own arithmetic, in the parameter's dtype, where nothing is written.
    exact = not (m.written or v.written or cast) and state["m"].dtype == weights.dtype
    scalars = Step.at(step, plan.hyper)
    if cast is None and m.cast and v.cast and steps_at_once(m.cast, v.cast, weights, gradient, start):
        numbers = scalars.numbers()
        adamw_step(weights, gradient, state, m=m.cast, v=v.cast, numbers=numbers, keys=keys, start=start)
        return
    unit = _unit(weights.numel(), shape, m, v, cast)
    for a, b in _chunks(weights.numel(), unit, CHUNK.get(weights.device.type, LARGE_CHUNK)):
        w, g = weights[a:b], gradient[a:b]
        if exact:
            fresh_m, fresh_v = state["m"].view(-1)[a:b], state["v"].view(-1)[a:b]
            scalars.average(g, fresh_m, fresh_v)
            scalars.move(w, fresh_m, fresh_v)
            continue
        work = w if w.dtype in (torch.float32, torch.float64) else w.float()
        g = g.to(work.dtype)
        fresh_m, fresh_v = (
            moment.read(slot, state, shape, a, b) if step > 1 or moment.plain else torch.zeros_like(work)
            for slot, moment in (("m", m), ("v", v))
        )
        fresh_m, fresh_v = fresh_m.to(work.dtype), fresh_v.to(work.dtype)
        scalars.average(g, fresh_m, fresh_v)
        fresh_v.clamp_(max=LARGEST)  # g^2 overflows float32 from |g| = 1.8e19; an inf would take its block along
        scalars.move(work, fresh_m, fresh_v)
        m.write("m", state, fresh_m, shape, a, key=keys.get("m"), offset=start)
        v.write("v", state, fresh_v, shape, a, key=keys.get("v"), offset=start)
        if cast is not None:
            rows = work.view(-1, shape[-1]) if b - a < weights.numel() else work.view(shape)
            work = cast(rows, keys.get("weights"), start + a).view(-1)
        if work.data_ptr() != w.data_ptr():
            w.copy_(work)


@dataclass(frozen=True)
class Part:
    """What `update_` is told of one whole parameter, weights and gradient flat."""

    weights: Tensor
    gradient: Tensor
    state: Mapping[str, Tensor]
    step: int
    plan: Plan
    shape: tuple[int, ...]


def update_all_(parts: Sequence[Part]) -> None:
    """`update_` of every part, bit for bit; on a CPU those that the compiled step knows are stepped in one call."""
    together: dict[tuple[Cast, Cast], list[Part]] = {}
    for part in parts:
        m, v = part.plan.m.cast, part.plan.v.cast
        here = part.plan.cast is None and part.weights.device.type == "cpu"
        if m and v and here and steps_at_once(m, v, part.weights, part.gradient):
            together.setdefault((m, v), []).append(part)
        else:
            update_(part.weights, part.gradient, part.state, part.step, part.plan, shape=part.shape)
    for (m, v), some in together.items():
        adamw_steps(
            [part.weights for part in some],
            [part.gradient for part in some],
            [part.state for part in some],
            [Step.at(part.step, part.plan.hyper).numbers() for part in some],
            [part.plan.keys for part in some],
            m=m,
            v=v,
        )


def update_stored_(stored: Stored, gradient: Tensor, state: Mapping[str, Tensor], step: int, plan: Plan) -> None:
    """One AdamW step in place on a weight that is its codes, and on its moments; counts what stalls.

    gradient: like the weight; the rest as in `update_`. The codes are written by the plan's cast, else by their own.
    Ancestor: `update_` on `stored.values()`, then `stored.rewrite`, bit for bit with the same door of `update_`.
    """
    cast, m, v = plan.cast or stored.cast, plan.m.cast, plan.v.cast
    gradient = gradient.contiguous()
    if m and v and rewrites_at_once(cast, m, v, stored, gradient):
        numbers = Step.at(step, plan.hyper).numbers()
        adamw_step_on_codes(stored, gradient, state, cast=cast, m=m, v=v, numbers=numbers, keys=plan.keys)
        return
    work, shape = stored.values(), tuple(gradient.shape)
    flat = gradient.to(work.dtype).view(-1)
    update_(work.view(-1), flat, state, step, replace(plan, cast=None), shape=shape)
    stored.rewrite(work, cast, plan.keys.get("weights"))


@dataclass(frozen=True)
class Step:
    """The scalars of one step, made in the order and precision in which torch makes them."""

    decay: float | Tensor | None
    rise_m: float
    keep_v: float
    rise_v: float
    correction: float
    size: float | Tensor
    eps: float

    @classmethod
    def at(cls, step: int, hyper: Hyper) -> "Step":
        lr = hyper.lr.squeeze() if isinstance(hyper.lr, Tensor) else float(hyper.lr)
        return cls(
            decay=1 - lr * hyper.weight_decay if hyper.weight_decay != 0 else None,
            rise_m=1 - hyper.beta1,
            keep_v=hyper.beta2,
            rise_v=1 - hyper.beta2,
            correction=(1 - hyper.beta2**step) ** 0.5,
            size=lr / (1 - hyper.beta1**step),
            eps=hyper.eps,
        )

    def numbers(self) -> dict[str, float]:
        """For the compiled step, which multiplies where torch divides."""
        return {
            "decay": 1.0 if self.decay is None else float(self.decay),
            "rise_m": self.rise_m,
            "keep_v": self.keep_v,
            "rise_v": self.rise_v,
            "correction": 1 / self.correction,
            "size": float(self.size),
            "eps": self.eps,
        }

    def average(self, g: Tensor, m: Tensor, v: Tensor) -> None:
        """Fresh m and v, in place."""
        m.lerp_(g, self.rise_m)
        v.mul_(self.keep_v).addcmul_(g, g, value=self.rise_v)

    def move(self, w: Tensor, m: Tensor, v: Tensor) -> None:
        """Fresh weights from fresh moments, in place."""
        if self.decay is not None:
            w.mul_(self.decay)
        w.addcdiv_(m, v.sqrt().div_(self.correction).add_(self.eps), value=-self.size)  # type: ignore[arg-type]


def _unit(numel: int, shape: tuple[int, ...], *written: Moment | Cast | None) -> int:
    """Elements that must stay in one chunk: whole blocks, whole rows of a weight cast, or the whole slice."""
    unit = 64  # whole vectors, so that a chunk's last elements meet the same instructions as in one long call
    for one in written:
        if isinstance(one, Moment):
            unit = math.lcm(unit, one.block) if one.block else numel
        elif one is not None and one.scale.granularity in ("row", "block") and shape:
            unit = math.lcm(unit, shape[-1])
        elif one is not None:
            unit = numel
        if unit >= numel:
            return max(1, numel)
    return unit


def _chunks(numel: int, unit: int, about: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of about `about` elements that begin at multiples of `unit`."""
    size = max(1, about // unit) * unit
    for a in range(0, numel, size):
        yield a, min(a + size, numel)
