"""Tensors: what writing does to one tensor and to one layer's products, and which of its channels stand out."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from pennyweight.analysis.sampling import NUMBERS, sample
from pennyweight.nn import WrittenConv1D, WrittenLinear
from pennyweight.nn.linear import linear
from pennyweight.numerics import Cast, fidelity
from pennyweight.numerics.fidelity import distinct

Measures = dict[str, float]
Written = WrittenLinear | WrittenConv1D
TOP = 3  # channels that are named


def matrix_of(module: nn.Module) -> Tensor:
    """The weight [O, I] of a linear layer, however it lies: a master weight, or what its codes stand for."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, WrittenLinear | WrittenConv1D) and module.layer.stored is not None:
        weight = module.layer.stored.values()
    return weight.detach().T if is_turned(module) else weight.detach()


def is_turned(module: nn.Module) -> bool:
    """Whether the weight lies as [I, O]."""
    return type(module).__name__.endswith("Conv1D")


@torch.no_grad()
def writing(matrix: Tensor, cast: Cast | None, key: int | None = None, *, numbers: int = NUMBERS) -> Measures:
    """What a cast does to a matrix [R, C]: db, bias, saturated, zero, codes, as `numerics.fidelity` defines them.

    Looks at a `sample` of about `numbers` numbers; nothing where there is no cast, or no number.
    """
    if cast is None or matrix.numel() == 0:
        return {}
    found = fidelity(sample(matrix, cast, numbers=numbers), cast, key=key)
    told = {"db": found.db, "bias": found.bias, "saturated": found.saturated_share, "zero": found.zero_share}
    return told | ({} if found.codes_used is None else {"codes": float(found.codes_used)})


def stored_codes(module: Written, *, numbers: int = NUMBERS) -> Measures:
    """Of a weight that is its codes alone, sampled: the share of zero codes, and distinct codes; it lost nothing."""
    stored = module.layer.stored
    assert stored is not None
    codes = sample(stored.codes.T if stored.turned else stored.codes, None, numbers=numbers)
    return {"zero": float((codes == 0).float().mean()), "codes": float(distinct(codes.contiguous()))}


@torch.no_grad()
def outliers(x: Tensor) -> tuple[float, list[tuple[int, float]]]:
    """Of an input [T, I]: the kurtosis of its channels, and the channels that stand out most, with how far.

    With r_c the rms of channel c over the tokens: kurtosis = mean(r^4) / mean(r^2)^2, from 1 (all channels alike) to I
    (one holds everything). A channel stands out by r_c over the rms of the whole input.
    """
    power = x.to(torch.float32).square().mean(0)
    total = power.mean()
    if not total > 0:
        return 1.0, []
    kurtosis = float(power.square().mean() / total.square())
    top = power.topk(min(TOP, power.numel()))
    ratios = (top.values / total).sqrt()
    return kurtosis, [(int(i), float(r)) for i, r in zip(top.indices, ratios, strict=True)]


def products(
    module: Written, x: Tensor, grad: Tensor, precise: Callable[[], AbstractContextManager[object]]
) -> dict[str, Measures]:
    """db and bias of the three products of a layer, by its own operators, against float32 on unwritten operands.

    x [T, I], grad [T, O]: tokens that were sampled. A scale of all tokens (per tensor, per column) is here one of
    these, and grad_weight is their sum alone. `precise`: in which autocast the layer runs.
    """
    weight, turned = module.weight, is_turned(module)
    x = x.detach().requires_grad_()
    with precise(), torch.enable_grad():
        y = linear(module.layer, x, weight, None, turned=turned)
    wanted = (x, weight) if weight.requires_grad else (x,)
    grads = torch.autograd.grad(y, wanted, grad.to(y.dtype))
    with torch.no_grad():
        X, G, W = x.detach().float(), grad.float(), matrix_of(module).float()
        pairs = {"output": (X @ W.T, y.detach()), "grad_input": (G @ W, grads[0])}
        if weight.requires_grad:
            pairs["grad_weight"] = (G.T @ X, grads[1].T if turned else grads[1])
        found = {name: fidelity(sample(exact, None), sample(got, None)) for name, (exact, got) in pairs.items()}
    return {name: {"db": one.db, "bias": one.bias} for name, one in found.items()}


@torch.no_grad()
def gradient_fidelity(written: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> dict[str, Measures]:
    """Cosine and norm ratio (written over plain) of each gradient that both sides have; a zero one has neither."""
    told = {}
    for name in written.keys() & plain.keys():
        a, b = written[name].double().view(-1), plain[name].double().view(-1)
        lengths = float(a.norm()), float(b.norm())
        if all(lengths):
            told[name] = {"cosine": float(a @ b) / (lengths[0] * lengths[1]), "norm_ratio": lengths[0] / lengths[1]}
    return told
