"""Passes: a forward and a backward pass made only to look, after which the model is as it was, to the last bit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.analysis.sampling import NUMBERS, largest_row, sample, strided
from pennyweight.analysis.tensors import (
    Measures,
    Written,
    gradient_fidelity,
    matrix_of,
    outliers,
    products,
    stored_codes,
    writing,
)
from pennyweight.nn import WrittenConv1D, WrittenLinear
from pennyweight.nn import operands as nn_operands
from pennyweight.nn.layer import slot_cast
from pennyweight.nn.unwritten import unwritten
from pennyweight.recipes.precision import precise

Objective = Callable[[nn.Module, Tensor], Tensor]
TOKENS = 128  # on which the products of a layer are computed once more


@dataclass(frozen=True)
class Lens:
    """How one looks at a model: what its loss is, and in which arithmetic that which no cast writes is computed."""

    model: nn.Module
    objective: Objective
    precision: str

    def precise(self) -> AbstractContextManager[object]:
        """The autocast of the training."""
        return precise(self.precision, next(self.model.parameters()).device.type)

    def layers(self) -> dict[str, Written]:
        """The converted layers by name."""
        modules = self.model.named_modules()
        return {name: one for name, one in modules if isinstance(one, WrittenLinear | WrittenConv1D)}

    def weights(self) -> dict[str, str]:
        """Layer -> its weight's parameter, for every linear layer that is converted, and every other of its kind."""
        kinds = ("Linear", "Conv1D")
        found = {name: one for name, one in self.model.named_modules() if type(one).__name__.endswith(kinds)}
        return {name: f"{name}.weight" if name else "weight" for name in found}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Inside anything may run; afterwards gradients, noise counter, random numbers and mode are those before."""
    conversion = getattr(model, "pennyweight_conversion", None)
    counter = None if conversion is None else conversion.counter.state()
    grads, mode = [(p, p.grad) for p in model.parameters()], model.training
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    for parameter, _ in grads:
        parameter.grad = None
    try:
        with torch.random.fork_rng(list(devices)), torch.enable_grad():
            yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        if conversion is not None:
            conversion.counter.load(counter)
        model.train(mode)


@dataclass
class _Seen:
    """What a pass leaves of one layer: tokens of its input and of its output's gradient, and what was measured."""

    x: Tensor
    tokens: Tensor  # their places
    keys: dict[str, int]
    scales: Tensor | None = None  # [T, 1] of the written input, where the backward pass folds them into G^T
    grad: Tensor | None = None
    measures: Measures = field(default_factory=dict)
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Found:
    """Layer -> measures, and layer -> channels that stand out."""

    measures: dict[str, Measures] = field(default_factory=dict)
    top: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, layer: str, tensor: str, measures: Measures) -> None:
        """Puts measures of a tensor or product of a layer beside the others."""
        self.measures.setdefault(layer, {}).update({f"{tensor}.{name}": value for name, value in measures.items()})


def look(lens: Lens, tokens: Tensor, *, gradients: bool = False) -> Found:
    """What the recipe does to every converted layer when the model learns from `tokens` [b, context + 1].

    One pass forward and backward as the recipe computes it, with the noise of the next step; `gradients`: another in
    float32 with the recipe off, whose weight gradients the written ones are compared with, on a sample of their rows.
    Nothing of the model changes, and no gradient stays. Costs: two passes over `tokens`, the largest gradient at a
    time, TOKENS rows a layer.
    """
    found, kept = Found(), lens.weights() if gradients else {}
    with untouched(lens.model):
        state = torch.get_rng_state()
        seen: dict[str, _Seen] = {}
        with _listening(lens, seen):
            written = sampled_gradients(lens, tokens, kept, dict(lens.model.named_parameters()), lens.precise)
        for name, module in lens.layers().items():
            _tell(lens, found, name, module, seen.get(name))
        if gradients:
            torch.set_rng_state(state)
            with unwritten(lens.model) as parameters:
                plain = sampled_gradients(lens, tokens, kept, parameters, nullcontext)
            for name, one in gradient_fidelity(written, plain).items():
                found.add(name, "gradient", one)
    return found


def sampled_gradients(
    lens: Lens, tokens: Tensor, kept: Mapping[str, str], parameters: Mapping[str, nn.Parameter],
    precise: Callable[[], AbstractContextManager[object]],
) -> dict[str, Tensor]:  # fmt: skip
    """Rows of the gradients of some weights (layer -> parameter), float32; each gradient is freed when complete."""
    rows: dict[str, Tensor] = {}
    layer_of = {parameter: layer for layer, parameter in kept.items()}

    def take(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        if name in layer_of:
            grad = parameter.grad.view(parameter.shape[0], -1)
            rows[layer_of[name]] = sample(grad, None, numbers=NUMBERS).float().clone()
        parameter.grad = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(take, name))
        for name, parameter in parameters.items()
        if parameter.requires_grad
    ]
    try:
        with precise():
            loss = lens.objective(lens.model, tokens)
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    return rows


@contextmanager
def _listening(lens: Lens, seen: dict[str, _Seen]) -> Iterator[None]:
    """Inside, a pass of the model leaves in `seen` what its converted layers met; compiled blocks run as written."""
    hooks = [m.register_forward_hook(partial(_on_output, name, seen)) for name, m in lens.layers().items()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _on_output(name: str, seen: dict[str, _Seen], module: Any, args: tuple[Any, ...], output: Tensor) -> None:
    """A converted layer has given its output: its first call in the pass is looked at."""
    if name in seen or not output.requires_grad:
        return
    x = args[0].detach().reshape(-1, args[0].shape[-1])
    casts, keys = module.layer.casts, module.layer.keys()
    tokens = strided(x.shape[0], TOKENS).to(x.device)
    if casts.output.left is not None and casts.output.left.scale.granularity == "tensor":
        tokens = torch.unique(torch.cat([tokens, largest_row(x)]))
    one = seen[name] = _Seen(x[tokens], tokens, keys)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        one.measures = {f"x.{k}": v for k, v in writing(x, casts.output.left, keys.get("output.left")).items()}
        one.measures["x.kurtosis"], one.top = outliers(x)
        if casts.backward == "folded" and casts.output.left is not None:
            written = nn_operands.Raw(x.contiguous(), casts.output.left, keys.get("output.left")).write()
            one.scales = nn_operands.Written(written).scales
    output.register_hook(partial(_on_gradient, one, module))


@torch.no_grad()
def _on_gradient(one: _Seen, module: Any, grad: Tensor) -> None:
    """The gradient of its output has come: G as grad_input writes it, and G^T as grad_weight does."""
    if one.grad is not None:
        return
    layer, G = module.layer, grad.detach().reshape(-1, grad.shape[-1])
    one.grad = G[one.tokens]
    folded = layer.casts.backward == "folded"
    for tensor, product, matrix in (("g", "grad_input", G), ("gt", "grad_weight", G.T)):
        cast = slot_cast(layer.casts, f"{product}.left")
        if cast is None:
            continue
        scales = (_weight_scales(module, one) if tensor == "g" else one.scales) if folded else None
        matrix = matrix if scales is None else matrix.float() * scales.T
        told = writing(matrix, cast, one.keys.get(f"{product}.left"))
        one.measures |= {f"{tensor}.{name}": value for name, value in told.items()}


def _weight_scales(module: Written, one: _Seen) -> Tensor | None:
    """[O, 1] or [1, 1]: the scales that the backward pass folds into G."""
    layer = module.layer
    if layer.stored is not None:
        return layer.stored.scales.view(-1, 1)
    cast = layer.casts.output.right
    if cast is None:
        return None
    return nn_operands.Written(nn_operands.Raw(matrix_of(module), cast, one.keys.get("output.right")).write()).scales


def _tell(lens: Lens, found: Found, name: str, module: Written, seen: _Seen | None) -> None:
    """Everything about one layer, when its pass is over."""
    layer = module.layer
    if layer.stored is not None:
        found.add(name, "w", stored_codes(module))
    else:
        key = None if seen is None else seen.keys.get("output.right")
        found.add(name, "w", writing(matrix_of(module), layer.casts.output.right, key))
    if seen is None:
        return
    found.measures.setdefault(name, {}).update(seen.measures)
    found.top[name] = seen.top
    if seen.grad is not None:
        for product, measures in products(module, seen.x, seen.grad, lens.precise).items():
            found.add(name, product, measures)
