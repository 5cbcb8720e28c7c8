"""Sensitivity: what each component would lose in each format, in decibels, on tensors that a short bf16 run makes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.analysis.passes import Lens, untouched
from pennyweight.analysis.sampling import sample, strided
from pennyweight.analysis.tensors import matrix_of
from pennyweight.data import Corpus
from pennyweight.experiments.search.space import NONE, Candidate, moves
from pennyweight.experiments.search.steps import Stepping
from pennyweight.numerics import Cast, fidelity
from pennyweight.recipes import LinearCasts, Recipe, state_cast
from pennyweight.training import Run
from pennyweight.training.machine import device

LOOKED = 32  # steps of the run that is looked at, at most
TOKENS = 256  # of a layer's input and of its output's gradient
FEWEST = 4096  # numbers of a kept tensor that is worth writing, as in `pennyweight.nn.saved`
BEST_DB = 200.0  # said where nothing is lost


@dataclass
class Seen:
    """What one pass of the model shows: of each linear layer x [T, I], w [O, I], g [T, O]; kept tensors; moments."""

    x: dict[str, Tensor] = field(default_factory=dict)
    w: dict[str, Tensor] = field(default_factory=dict)
    g: dict[str, Tensor] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    m: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Sensitivity:
    """noise: component -> option -> decibels; layers: the linear layers, those that lose most in 8 bits first."""

    noise: dict[str, dict[str, float]]
    layers: tuple[str, ...]
    tokens: int  # that the run looked at has read

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"noise": self.noise, "layers": list(self.layers), "tokens": self.tokens}

    @classmethod
    def from_dict(cls, written: dict[str, Any]) -> "Sensitivity":
        """What `to_dict` wrote."""
        return cls(written["noise"], tuple(written["layers"]), written["tokens"])


def sensitivity(base: Run, corpus: Corpus, tried: dict[str, tuple[str, ...]]) -> Sensitivity:
    """Trains `base` in bf16 for at most `LOOKED` steps and writes what one batch more shows in each format.

    Costs: those steps, one pass, and the writing of samples of its tensors.
    """
    run = replace(base, recipe=Recipe("bf16", LinearCasts()))  # writes nothing: bf16, with layers that can be seen
    stepping = Stepping.begin(run, corpus)
    steps = min(LOOKED, base.steps)
    for _ in range(steps):
        stepping()
    seen = look(stepping, steps)
    noise: dict[str, dict[str, float]] = {}
    layers: dict[str, float] = {}
    for one in moves(tried):
        name, option = next((name, option) for name, option in one.to_dict().items() if option != NONE)
        told = losses(seen, name, one)
        noise.setdefault(name, {})[option] = decibels(told.values())
        if name in ("weights", "activations") and option == "8":
            for layer, loss in told.items():
                layers[layer] = layers.get(layer, 0.0) + loss
    ranked = sorted(layers, key=lambda name: (-layers[name], name))
    return Sensitivity(noise, tuple(ranked), (steps + 1) * base.tokens_per_step)


def look(stepping: Stepping, steps: int) -> Seen:
    """What the model shows when it learns from its next batch; nothing of it changes."""
    training, seen = stepping.training, Seen()
    lens = Lens(training.model, training.run.objective, training.run.recipe.precision)
    own = {one.untyped_storage()._cdata for one in (*training.model.parameters(), *training.model.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        large = tensor.is_floating_point() and tensor.requires_grad and tensor.numel() >= FEWEST
        if large and tensor.untyped_storage()._cdata not in own:
            seen.kept.append(_rows(tensor))
        return tensor

    hooks = [one.register_forward_hook(_watch(seen, name)) for name, one in lens.layers().items()]
    try:
        with untouched(training.model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with lens.precise():
                loss = lens.objective(training.model, training.sampler.next().to(device()))
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    for group in training.optimizer.param_groups:
        for parameter in group["params"]:
            state = training.optimizer.state[parameter]
            if parameter.dim() >= 2 and "m" in state:
                seen.m.append(state["m"].detach().reshape(1, -1))
                seen.v.append(state["v"].detach().reshape(1, -1))
    for name, module in lens.layers().items():
        seen.w[name] = matrix_of(module).float().clone()
    return seen


def _watch(seen: Seen, name: str) -> Callable[..., None]:
    """A hook that keeps rows of a layer's input, and of its output's gradient when that comes."""

    def hook(module: nn.Module, given: Any, output: Tensor) -> None:
        seen.x[name] = _rows(given[0])
        if output.requires_grad:
            output.register_hook(lambda grad: seen.g.__setitem__(name, _rows(grad)))

    return hook


def _rows(tensor: Tensor) -> Tensor:
    """Some rows along the last dimension, float32."""
    matrix = tensor.detach().reshape(-1, tensor.shape[-1])
    return matrix[strided(matrix.shape[0], TOKENS).to(matrix.device)].float().clone()


def losses(seen: Seen, component: str, one: Candidate) -> dict[str, float]:
    """What one component loses when it alone is written as `one` says: noise over signal, of each tensor seen."""
    chosen = one.recipe()
    if component in ("m", "v"):
        text = chosen.m if component == "m" else chosen.v
        cast = state_cast(text, component, chosen.state_rounding)[1]
        assert cast is not None
        if component == "m":
            return {str(place): lost(values, cast) for place, values in enumerate(seen.m)}
        return {str(place): lost_in_step(values, cast) for place, values in enumerate(seen.v)}
    if component == "saved":
        assert chosen.saved is not None
        return {str(place): lost(rows, chosen.saved) for place, rows in enumerate(seen.kept)}
    assert chosen.linear is not None
    tensors, cast = {
        "weights": (seen.w, chosen.linear.output.right),
        "activations": (seen.x, chosen.linear.output.left),
        "gradients": (seen.g, chosen.linear.grad_input.left),
    }[component]
    assert cast is not None
    return {name: lost(sample(matrix, cast), cast) for name, matrix in tensors.items()}


def lost(x: Tensor, cast: Cast) -> float:
    """Noise over signal of a tensor as a cast writes it; 0 where nothing is lost."""
    return 10 ** (-fidelity(x, cast, key=1).db / 10)


def lost_in_step(v: Tensor, cast: Cast) -> float:
    """The same of what a step reads of v: 1 / sqrt(v)."""
    written = cast.write(v, 1).read(torch.float32)
    there = (v > 0) & (written > 0)
    return 10 ** (-fidelity(v[there].rsqrt(), written[there].rsqrt()).db / 10)


def decibels(noises: Iterable[float]) -> float:
    """The decibels of the mean of noise-to-signal ratios."""
    every = [one for one in noises if math.isfinite(one)]
    mean = math.fsum(every) / len(every) if every else 0.0
    return min(BEST_DB, -10 * math.log10(mean)) if mean > 0 else BEST_DB
