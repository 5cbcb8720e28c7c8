"""Updates: what one optimizer step really moved: moments that stall, weights whose updates are too small to be written.

Looks before the step and after it at the same sample of each tensor, and reads what the step has stored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pennyweight.analysis.passes import Found, Lens
from pennyweight.analysis.sampling import NUMBERS, sample
from pennyweight.analysis.tensors import Measures, Written, matrix_of
from pennyweight.numerics import Cast, Quantized, fidelity
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.fidelity import distinct
from pennyweight.optim import AdamW
from pennyweight.optim.moments import Moment
from pennyweight.optim.update import Plan

STALLED = 0.1
SLICES = 4  # stretches of a flattened moment, evenly spread


def half_steps(written: Quantized, towards: Tensor) -> Tensor | None:
    """How far each written number is from where the next one would be nearer, on the side of `towards` (its sign).

    Of a matrix [R, C], in the rotated basis if the cast rotates; infinite beyond the last value. None: of a format
    whose steps are no multiples of one scale (log, expanded, and torch's own dtypes).
    """
    cast = written.cast
    if cast.native or isinstance(cast.format, LogRange | Expanded):
        return None
    values = torch.tensor(sorted(set(cast.format.values)), dtype=torch.float32, device=written.codes.device)
    place = torch.searchsorted(values, cast.format.decode(written.codes_matrix()).contiguous())
    gaps = torch.cat([values.new_tensor([torch.inf]), values.diff(), values.new_tensor([torch.inf])]) / 2
    scales = written.scale_values().float() if cast.scale.number != "one" else values.new_ones(1, 1)
    if cast.scale.block is not None:
        scales = scales.repeat_interleave(cast.scale.block, 1)[:, : place.shape[1]]
    if cast.scale.granularity == "square":
        scales = scales.repeat_interleave(cast.scale.size, 0)[: place.shape[0]]
    return torch.where(towards > 0, gaps[place + 1], gaps[place]) * scales


@torch.no_grad()
def swallowed(before: Tensor, after: Tensor, cast: Cast) -> Measures:
    """Of the numbers of a master weight [R, C] that a step moved: what of it the written weight does not see.

    swallowed:   the share that moved by less than half a step of the written weight: without a master copy, rounding to
                 nearest would lose these updates
    image_kept:  the share whose written image (to nearest) is the same number after as before
    """
    moved = after != before
    count = int(moved.sum())
    if not count:
        return {}
    nearest = replace(cast, rounding="nearest")
    image, delta = nearest.write(before), after.float() - before.float()
    if cast.rotation is not None:
        delta = cast.rotation(delta)
    told = {"image_kept": float(((nearest(before) == nearest(after)) & moved).sum()) / count}
    half = half_steps(image, delta)
    if half is not None:
        told["swallowed"] = float(((delta.abs() < half) & moved).sum()) / count
    return told


@torch.no_grad()
def moved(old: Tensor, fresh: Tensor | None, new: Tensor) -> Measures:
    """What storing did to moments: the old ones, the fresh ones before they were stored, the new ones as stored.

    db, bias, zero: of new against fresh;  stalled: the share that moved by less than STALLED of what it should have: a
    scale that follows its block's largest number by a rounding error moves nothing. Without fresh values (the gradient
    is gone) only stalled: the share that stayed, of those that were not 0.
    """
    if fresh is None:
        return {"stalled": float(((new == old) & (old != 0)).sum()) / max(1, int((old != 0).sum()))}
    seen = fidelity(fresh, new)
    should = (fresh - old).abs()
    stalled = float(((new - old).abs() < STALLED * should).sum()) / max(1, old.numel())
    return {"db": seen.db, "bias": seen.bias, "zero": seen.zero_share, "stalled": stalled}


def stretches(moment: Moment, numel: int, *, numbers: int = NUMBERS) -> list[tuple[int, int]]:
    """Half-open ranges of a flattened moment that are looked at: whole blocks, or all of it where there are none."""
    unit = moment.block
    if unit is None or numel <= numbers:
        return [(0, numel)]
    length = max(unit, numbers // SLICES // unit * unit)
    starts = [place * (numel // SLICES) // unit * unit for place in range(SLICES)]
    return [(start, min(numel, start + length)) for start in starts]


@dataclass
class Update:
    """The state of things before a step; `after` says what the step did. Costs: the samples, kept for one step."""

    lens: Lens
    optimizer: AdamW
    _moments: list[tuple[str, Tensor, Plan, dict[str, list[Tensor]]]] = field(default_factory=list, init=False)
    _weights: dict[str, Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def __post_init__(self) -> None:
        for name, parameter, plan in self.optimizer.plans():
            slots = {slot: one for slot, one in (("m", plan.m), ("v", plan.v)) if one.written}
            if slots and self.optimizer.state.get(parameter):
                state, shape = self.optimizer.state[parameter], tuple(parameter.shape)
                old = {slot: _read(slot, one, state, shape) for slot, one in slots.items()}
                self._moments.append((name.removesuffix(".weight"), parameter, plan, old))
        for name, module in self.lens.layers().items():
            if module.layer.stored is None and module.layer.casts.output.right is not None:
                self._weights[name] = _rows(module).clone()

    @torch.no_grad()
    def after(self) -> Found:
        """Measures of every written moment and weight, now that the step is taken and its gradients still stand."""
        found = Found()
        for name, parameter, plan, old in self._moments:
            for slot, before in old.items():
                found.add(name, slot, self._moment(parameter, plan, slot, before))
        for name, module in self.lens.layers().items():
            stored, cast = module.layer.stored, module.layer.casts.output.right
            if stored is not None and stored.moved:
                found.add(name, "w", {"swallowed": stored.swallowed / stored.moved})
            elif name in self._weights and cast is not None:
                found.add(name, "w", swallowed(self._weights[name], _rows(module), cast))
        return found

    def _moment(self, parameter: Tensor, plan: Plan, slot: str, before: list[Tensor]) -> Measures:
        state, shape = self.optimizer.state[parameter], tuple(parameter.shape)
        moment = plan.m if slot == "m" else plan.v
        old, new = torch.cat(before), torch.cat(_read(slot, moment, state, shape))
        fresh, places = None, stretches(moment, parameter.numel())
        if parameter.grad is not None:
            flat = parameter.grad.contiguous().view(-1)
            g = torch.cat([flat[a:b] for a, b in places]).float()
            hyper = plan.hyper
            fresh = old.lerp(g, 1 - hyper.beta1) if slot == "m" else old * hyper.beta2 + g.square() * (1 - hyper.beta2)
        told = moved(old, fresh, new)
        if not moment.plain:
            codes = torch.cat([moment.codes(slot, state, shape, a, b) for a, b in places])
            told["codes"] = float(distinct(codes))
        return told


def _rows(module: Written) -> Tensor:
    """Rows of the master weight: the same ones each time, unless one scale belongs to the whole weight."""
    cast = module.layer.casts.output.right
    matrix = matrix_of(module)
    tensor = cast is not None and (cast.scale.granularity == "tensor" or cast.scale.number == "e4m3")
    return matrix if tensor else sample(matrix, cast)


def _read(slot: str, moment: Moment, state: Mapping[str, Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    places = stretches(moment, math.prod(shape))
    return [moment.read(slot, state, shape, a, b).float().clone() for a, b in places]
