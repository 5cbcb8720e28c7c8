"""Sharpness: how steep the loss is around the weights: the worst climb nearby, the largest curvature, slices.

Of the model with its recipe off, in float32, at its master weights (`nn.unwritten`): what precision did to the place
where training stands, not to the forward pass.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from pennyweight.analysis.passes import Objective, untouched
from pennyweight.nn.unwritten import unwritten
from pennyweight.numerics import noise

RHO = 0.05  # how far m-sharpness climbs: the radius of SAM's experiments, Foret et al. 2021
NUDGE = 1e-3  # of the weights' norm, that gradients are differenced over: near the cube root of float32's epsilon
Point = list[Tensor]


@dataclass(frozen=True)
class Sharpness:
    """What was measured on `sequences` sequences.

    loss:          at the weights
    m_sharpness:   mean over parts of m sequences of how much the loss of a part rises rho away along its own gradient
    eigenvalue:    the largest one of the Hessian, by Lanczos; negative only where the loss curves down everywhere
    by:            how Hessian-vector products were made: "double backward" or "differences" of gradients
    slice_1d:      (alpha, loss) along one direction of the filters' own norms
    slice_2d:      rows of losses over two such directions, along each at the same alphas
    """

    loss: float
    m_sharpness: float
    eigenvalue: float
    by: str
    sequences: int
    m: int
    rho: float
    slice_1d: tuple[tuple[float, float], ...] = ()
    slice_2d: tuple[tuple[float, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; a loss that is no number is null."""
        told = asdict(self)
        told["slice_1d"] = [[alpha, _finite(loss)] for alpha, loss in self.slice_1d]
        told["slice_2d"] = [[_finite(loss) for loss in row] for row in self.slice_2d]
        return told | {name: _finite(told[name]) for name in ("loss", "m_sharpness", "eigenvalue")}


def sharpness(
    model: nn.Module, objective: Objective, tokens: Tensor, *, m: int = 1, rho: float = RHO, lanczos: int = 8,
    alphas: Sequence[float] = (), alphas_2d: Sequence[float] = (), seed: int = 0,
) -> Sharpness:  # fmt: skip
    """Sharpness on `tokens` [b, context + 1]; the model is as before afterwards, its weights to the last bit.

    lanczos: Hessian-vector products. alphas: where the slices are cut, in units of the filters' norms; none: no slice.
    Source:   m-sharpness, Foret et al. 2021, arXiv:2010.01412; slices with filter normalization, Li et al. 2018,
              arXiv:1712.09913; Lanczos on Hessian-vector products (Pearlmutter 1994), Yao et al. 2020,
              arXiv:1912.07145.
    Costs:    a gradient and a loss a part, `lanczos` second gradients (each two to three gradients), a loss a point;
              up to `lanczos` + 2 float32 copies of the weights.
    """
    with untouched(model), unwritten(model) as named:
        model.eval()
        parameters = [one for one in named.values() if one.requires_grad]
        loss = lambda batch: objective(model, batch)  # noqa: E731 (a closure, handed on)
        here = float(loss(tokens).detach())
        climbed = [climb(parameters, lambda part=part: loss(part), rho=rho) for part in tokens.split(m)]
        product, by = hessian_product(model, parameters, objective, tokens)
        top = lanczos_top(product, _noise(parameters, seed, "lanczos"), steps=lanczos)
        first, second = (filter_direction(parameters, seed, name) for name in ("first", "second"))
        line = slice_of(parameters, lambda: loss(tokens), [first], alphas)
        plane = slice_of(parameters, lambda: loss(tokens), [first, second], alphas_2d)
        for parameter in parameters:
            parameter.grad = None
    side = len(alphas_2d)
    return Sharpness(
        here, sum(climbed) / len(climbed), top, by, tokens.shape[0], m, rho,
        tuple(zip(map(float, alphas), line, strict=True)),
        tuple(tuple(plane[row * side : (row + 1) * side]) for row in range(side)),
    )  # fmt: skip


@contextmanager
def moved_to(parameters: Sequence[Tensor], point: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters hold `point`; afterwards what they held, bit for bit."""
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, there in zip(parameters, point, strict=True):
            parameter.copy_(there)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)


def gradient(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> tuple[float, Point]:
    """The loss and its gradient where the parameters are; zeros for a parameter that the loss does not read."""
    with torch.enable_grad():
        value = loss()
    grads = torch.autograd.grad(value, list(parameters), allow_unused=True)
    return float(value.detach()), [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
    ]


def climb(parameters: Sequence[Tensor], loss: Callable[[], Tensor], *, rho: float) -> float:
    """loss(w + rho g / |g|) - loss(w): how much higher it is rho away, where it rises most steeply."""
    here, g = gradient(parameters, loss)
    length = math.sqrt(_dot(g, g))
    if not length > 0:
        return 0.0
    with (
        moved_to(parameters, [p + one * (rho / length) for p, one in zip(parameters, g, strict=True)]),
        torch.no_grad(),
    ):
        return float(loss()) - here


def hessian_product(
    model: nn.Module, parameters: Sequence[Tensor], objective: Objective, tokens: Tensor
) -> tuple[Callable[[Point], Point], str]:
    """v -> H v for the loss of `tokens`, and how it is made: by double backward, or by differences of gradients.

    Double backward is of the plain cross entropy of the model's logits, because functions of our own have no second
    derivative, with the attention that has one. Where torch refuses, gradients of `objective` are differenced.
    """

    def plain() -> Tensor:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    def doubled(v: Point) -> Point:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            return doubled_backward(parameters, plain, v)

    try:
        doubled(_noise(parameters, 0, "tried"))
    except (
        RuntimeError,
        TypeError,
        AttributeError,
    ):  # no second derivative; a model that takes or gives something else
        return (lambda v: differences(parameters, lambda: objective(model, tokens), v)), "differences"
    return doubled, "double backward"


def doubled_backward(parameters: Sequence[Tensor], loss: Callable[[], Tensor], v: Point) -> Point:
    """H v as the gradient of g . v."""
    grads = torch.autograd.grad(loss(), list(parameters), create_graph=True, allow_unused=True)
    along = [(g * one).sum() for g, one in zip(grads, v, strict=True) if g is not None]
    products = torch.autograd.grad(torch.stack(along).sum(), list(parameters), allow_unused=True)
    return [torch.zeros_like(p) if one is None else one for p, one in zip(parameters, products, strict=True)]


def differences(parameters: Sequence[Tensor], loss: Callable[[], Tensor], v: Point) -> Point:
    """H v as (g(w + e v) - g(w - e v)) / 2e, with e v of NUDGE times the norm of the weights. Error: of order e^2."""
    weights = [p.detach() for p in parameters]
    length = math.sqrt(_dot(v, v))
    if not length > 0:
        return [torch.zeros_like(one) for one in v]
    e = NUDGE * max(math.sqrt(_dot(weights, weights)), 1.0) / length
    sides = []
    for sign in (1.0, -1.0):
        with moved_to(parameters, [p + sign * e * one for p, one in zip(weights, v, strict=True)]):
            sides.append(gradient(parameters, loss)[1])
    return [(up - down) / (2 * e) for up, down in zip(*sides, strict=True)]


def lanczos_top(product: Callable[[Point], Point], start: Point, *, steps: int) -> float:
    """The largest eigenvalue of a symmetric operator, seen from `start`: the largest one of its tridiagonal matrix.

    Every new vector is made orthogonal to all before it. Never above the true one, but by rounding.
    Source: Lanczos 1950.
    """
    length = math.sqrt(_dot(start, start))
    basis = [[one / length for one in start]]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        w = product(basis[-1])
        diagonal.append(_dot(w, basis[-1]))
        for q in basis:
            share = _dot(w, q)
            w = [one - share * other for one, other in zip(w, q, strict=True)]
        length = math.sqrt(_dot(w, w))
        if step + 1 == steps or length <= 1e-6 * max(1e-30, max(map(abs, diagonal))):  # the space is used up
            break
        beside.append(length)
        basis.append([one / length for one in w])
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for place, value in enumerate(beside):
        tridiagonal[place, place + 1] = tridiagonal[place + 1, place] = value
    return float(torch.linalg.eigvalsh(tridiagonal)[-1]) if tridiagonal.isfinite().all() else math.nan


def filter_direction(parameters: Sequence[Tensor], seed: int, name: str) -> Point:
    """Normal noise whose every row has the norm of that row of the weight; none along vectors (norms, biases)."""
    return [
        d * (p.detach().norm(dim=-1, keepdim=True) / d.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        if p.dim() > 1
        else torch.zeros_like(p)
        for p, d in zip(parameters, _noise(parameters, seed, name), strict=True)
    ]


@torch.no_grad()
def slice_of(
    parameters: Sequence[Tensor], loss: Callable[[], Tensor], directions: Sequence[Point], alphas: Sequence[float]
) -> list[float]:
    """The loss at w + sum of alpha_i d_i for every tuple of alphas, the last one moving fastest."""
    points = torch.cartesian_prod(*[torch.tensor(list(alphas), dtype=torch.float64)] * len(directions))
    weights, found = [p.detach().clone() for p in parameters], []
    for point in points.view(-1, len(directions)).tolist():
        there = weights
        for alpha, direction in zip(point, directions, strict=True):
            there = [p + alpha * d for p, d in zip(there, direction, strict=True)]
        with moved_to(parameters, there):
            found.append(float(loss()))
    return found


def _noise(parameters: Sequence[Tensor], seed: int, name: str) -> Point:
    """Standard normal numbers, counted like all noise (Box-Muller), the same on every device."""
    made = []
    for place, p in enumerate(parameters):
        a, b = (
            noise.uniform(noise.key(seed, 0, f"{name}.{place}", side), p.shape, device=p.device)
            for side in ("r", "phi")
        )
        made.append((-2 * (1 - a).log()).sqrt() * (2 * math.pi * b).cos())
    return made


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((one.double() * other.double()).sum()) for one, other in zip(a, b, strict=True))


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
