"""Attention in one call keeps its bounds against float64, whatever the shape, the strides and the threads."""

import math

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional

from pennyweight.kernels import compiled
from pennyweight.kernels import tiled_attention as room

U = 2.0**-8  # half a step of bfloat16 next to 1
SLACK = 1.02  # float32 sums and exponentials, and products of two roundings
Shape = tuple[int, int, int, int, int, int, bool]  # batch, heads, heads of keys, queries, keys, size, causal
SHAPES: list[Shape] = [
    (1, 1, 1, 32, 32, 32, False),
    (2, 2, 2, 1, 1, 64, True),
    (1, 2, 1, 1, 45, 64, False),
    (2, 3, 3, 77, 77, 64, True),
    (1, 4, 2, 77, 130, 128, False),
    (1, 4, 1, 100, 100, 96, True),
    (1, 6, 2, 300, 300, 32, True),
    (1, 1, 1, 600, 600, 64, True),
    (1, 1, 1, 545, 290, 32, True),
    (1, 1, 1, 70, 330, 64, True),
    (1, 1, 1, 290, 550, 64, False),
]

needs_tiles = pytest.mark.skipif(not room.has_attention(), reason="no compiled attention on this machine")


def case(shape: Shape, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, and the gradient of the output, all [B, heads, rows, D]."""
    B, H, G, T, S, D, _ = shape
    generator = torch.Generator().manual_seed(T + S + D)
    sizes = ((B, H, T, D), (B, G, S, D), (B, G, S, D), (B, H, T, D))
    q, k, v, g = (torch.randn(size, generator=generator) for size in sizes)
    return (q * spread).bfloat16(), k.bfloat16(), v.bfloat16(), g.bfloat16()


def computed(q: Tensor, k: Tensor, v: Tensor, g: Tensor, causal: bool, scale: float) -> list[Tensor]:
    """out, dQ, dK, dV as [B, heads, rows, D], and log(sum(exp(scores)))."""
    out, norms = room.attention(q, k, v, causal=causal, scale=scale)
    grads = room.attention_backward(g.transpose(1, 2), q, k, v, out, norms, causal=causal, scale=scale)
    return [out.transpose(1, 2), *grads, lse(norms, scale)]


def lse(norms: Tensor, scale: float) -> Tensor:
    return norms[0] * scale + norms[1] * math.log(2)


def exact(q: Tensor, k: Tensor, v: Tensor, g: Tensor, causal: bool, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """The same in float64, and how far each element may lie from it, by the formulas of the docstring."""
    share = q.shape[1] // k.shape[1]
    Q, K, V, G = q.double(), k.double().repeat_interleave(share, 1), v.double().repeat_interleave(share, 1), g.double()
    scores = Q @ K.mT * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    lse = scores.logsumexp(-1)
    P = scores.softmax(-1)
    out = P @ V
    grad_S = P * (G @ V.mT - (G * out).sum(-1, keepdim=True))
    E = grad_S.abs() + 2 * P * (G.abs() * (P @ V.abs())).sum(-1, keepdim=True)

    def gathered(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, share)).sum(2)

    dq, dk, dv = grad_S @ K * scale, gathered(grad_S.mT @ Q) * scale, gathered(P.mT @ G)
    bounds = [
        2 * U * (P @ V.abs()),
        U * (dq.abs() + scale * E @ K.abs()),
        U * (dk.abs() + scale * gathered(E.mT @ Q.abs())),
        2 * U * gathered(P.mT @ G.abs()),
        2**-20 * (1 + lse.abs()),
    ]
    return [out, dq, dk, dv, lse], bounds


def assert_within_bounds(results: list[Tensor], wanted: list[Tensor], bounds: list[Tensor]) -> None:
    for name, result, value, bound in zip(("out", "dq", "dk", "dv", "lse"), results, wanted, bounds, strict=True):
        over = ((result.double() - value).abs() / (SLACK * bound + 1e-30)).max()
        assert over <= 1, f"{name} is {over:.2f} times as far from float64 as its bound"


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_keep_their_bounds_against_float64(shape: Shape) -> None:
    tensors, causal, scale = case(shape), shape[-1], shape[-2] ** -0.5
    assert_within_bounds(computed(*tensors, causal, scale), *exact(*tensors, causal, scale))


@needs_tiles
@pytest.mark.parametrize(("spread", "scale"), [(30.0, 0.125), (1.0, 2.0), (0.01, 0.125)])
def test_sharp_and_flat_softmaxes_keep_the_bounds(spread: float, scale: float) -> None:
    tensors = case((1, 2, 2, 600, 600, 64, True), spread)
    assert_within_bounds(computed(*tensors, True, scale), *exact(*tensors, True, scale))


@needs_tiles
@pytest.mark.parametrize("causal", [True, False])
def test_scores_far_below_zero_do_no_harm(causal: bool) -> None:
    q, k, v, g = case((1, 2, 2, 45, 45, 64, causal))
    tensors = (q * 0.1 - 3, k * 0.1 + 3, v, g)  # scores near -288: exp(-lse) would be infinite
    assert_within_bounds(computed(*tensors, causal, 0.5), *exact(*tensors, causal, 0.5))


@needs_tiles
@pytest.mark.parametrize("compute", ["call", "reference"])
@pytest.mark.parametrize("power", [7, 14, 40, 100])
def test_scores_of_any_size_keep_the_bounds(power: int, compute: str) -> None:
    """Powers of two as q and k: every score is exact in float32, and softmax picks one key, or a few alike."""
    _, _, v, g = case((1, 2, 2, 600, 600, 64, True))
    generator = torch.Generator().manual_seed(power)
    q = (2.0 ** (power + 3) * torch.randint(-1, 2, (1, 2, 600, 64), generator=generator)).bfloat16()
    k = torch.zeros_like(q)
    k[..., 0] = torch.randint(1, 5, (1, 2, 600), generator=generator).bfloat16()
    if compute == "call":
        found = computed(q, k, v, g, True, 0.125)
    else:
        out, norms = room.reference(q, k, v, causal=True, scale=0.125)
        rows = g.transpose(1, 2)
        grads = room.reference_backward(rows, q, k, v, out, norms, causal=True, scale=0.125)
        found = [out.transpose(1, 2), *grads, lse(norms, 0.125)]
    assert_within_bounds(found, *exact(q, k, v, g, True, 0.125))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference_keeps_the_same_bounds(shape: Shape) -> None:
    (q, k, v, g), causal, scale = case(shape), shape[-1], shape[-2] ** -0.5
    out, norms = room.reference(q, k, v, causal=causal, scale=scale)
    grads = room.reference_backward(g.transpose(1, 2), q, k, v, out, norms, causal=causal, scale=scale)
    assert_within_bounds([out.transpose(1, 2), *grads, lse(norms, scale)], *exact(q, k, v, g, causal, scale))


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES[3:], ids=str)
def test_no_error_is_larger_than_torchs_own(shape: Shape) -> None:
    tensors, causal, scale = case(shape), shape[-1], shape[-2] ** -0.5
    q, k, v = (x.clone().requires_grad_() for x in tensors[:3])
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    theirs = [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]
    wanted, _ = exact(*tensors, causal, scale)
    for mine, its, value in zip(computed(*tensors, causal, scale), theirs, wanted, strict=False):
        error, other = ((x.double() - value).norm() for x in (mine, its))
        assert error <= 1.1 * other  # the same roundings of the output, or fewer; a tenth for chance


@needs_tiles
def test_the_reference_and_the_call_differ_by_the_order_of_sums() -> None:
    q, k, v, g = case((2, 4, 2, 200, 200, 64, True))
    out, norms = room.reference(q, k, v, causal=True, scale=0.125)
    grads = room.reference_backward(g.transpose(1, 2), q, k, v, out, norms, causal=True, scale=0.125)
    theirs = [out.transpose(1, 2), *grads, lse(norms, 0.125)]
    for mine, its in zip(computed(q, k, v, g, True, 0.125), theirs, strict=True):
        assert (mine.double() - its.double()).norm() <= 2e-3 * its.double().norm()  # few elements, by one rounding


@needs_tiles
def test_views_of_one_projection_give_the_same_bits_as_copies() -> None:
    B, T, H, D = 2, 90, 3, 64
    qkv = torch.randn(B, T, 3 * H * D).bfloat16()
    q, k, v = (x.view(B, T, H, D).transpose(1, 2) for x in qkv.split(H * D, -1))
    g = torch.randn(B, H, T, D).bfloat16()
    assert room.attends(q, k, v)
    copies = computed(q.contiguous(), k.contiguous(), v.contiguous(), g, True, 0.1)
    for one, other in zip(computed(q, k, v, g, True, 0.1), copies, strict=True):
        assert torch.equal(one, other)
    strided = torch.randn(B, H, D, T).bfloat16().mT  # a gradient whose rows do not lie together
    for one, other in zip(
        computed(q, k, v, strided, True, 0.1), computed(q, k, v, strided.contiguous(), True, 0.1), strict=True
    ):
        assert torch.equal(one, other)


@needs_tiles
def test_results_lie_with_all_heads_of_a_row_together() -> None:
    q, k, v, g = case((2, 4, 2, 50, 50, 32, True))
    out, norms = room.attention(q, k, v, causal=True, scale=0.2)
    assert out.shape == (2, 50, 4, 32)
    assert out.is_contiguous()
    grads = room.attention_backward(g.transpose(1, 2), q, k, v, out, norms, causal=True, scale=0.2)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]
    assert all(grad.transpose(1, 2).is_contiguous() for grad in grads)


@needs_tiles
def test_the_number_of_threads_changes_no_bit() -> None:
    tensors = case((3, 4, 2, 700, 700, 64, True))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(computed(*tensors, True, 0.125))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


@needs_tiles
def test_keys_that_no_query_sees_get_no_gradient_and_change_nothing() -> None:
    q, k, v, g = case((1, 2, 2, 40, 40, 64, True))
    more_k, more_v = (torch.cat((x, torch.full_like(x, 9.0)), 2) for x in (k, v))
    short, long = computed(q, k, v, g, True, 0.125), computed(q, more_k, more_v, g, True, 0.125)
    assert torch.equal(short[0], long[0])
    assert torch.equal(short[1], long[1])
    for one, other in zip(short[2:4], long[2:4], strict=True):
        assert torch.equal(one, other[:, :, :40])
        assert not other[:, :, 40:].any()


@needs_tiles
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told_by_the_queries_that_see_it(bad: float) -> None:
    q, k, v, g = case((1, 1, 1, 80, 80, 32, True))
    k[0, 0, 50, 3] = bad
    out, *_ = computed(q, k, v, g, True, 0.2)
    seen = out[0, 0].isfinite().all(-1)
    assert seen[:50].all()
    if math.isnan(bad):
        assert not seen[50:].any()


@needs_tiles
def test_only_what_the_tiles_take_is_taken() -> None:
    q, k, v, _ = case((1, 4, 2, 8, 8, 64, True))
    assert room.attends(q, k, v)
    assert room.attends(torch.nn.Parameter(q), k, v)
    assert not room.attends(q.float(), k.float(), v.float())
    assert not room.attends(q, k.float(), v)
    assert not room.attends(q, k, v[:, :, 1:])
    assert not room.attends(q[:, :3], k, v)
    assert not room.attends(q[:, :, :3], k, v)
    assert not room.attends(q[:0], k[:0], v[:0])
    assert not room.attends(q[..., :48], k[..., :48], v[..., :48])
    assert not room.attends(q, k, v.mT.contiguous().mT)
    assert not room.attends(*(x.to("meta") for x in (q, k, v)))
    assert not room.attends(*(torch.cat((x, x, x), -1) for x in (q, k, v)))
    assert not room.attends(q, k[0], v[0])


def test_nothing_is_taken_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    q, k, v, _ = case((1, 1, 1, 8, 8, 64, True))
    assert not room.attends(q, k, v)


@needs_tiles
def test_operators_pass_torchs_own_checks() -> None:
    q, k, v, g = case((1, 2, 1, 9, 9, 32, True))
    ops = torch.ops.pennyweight
    out, norms = ops.attention(q, k, v, True, 0.2)
    library.opcheck(ops.attention.default, (q, k, v, True, 0.2))
    rows = g.transpose(1, 2)
    library.opcheck(ops.attention_backward.default, (rows, q, k, v, out, norms, True, 0.2))
