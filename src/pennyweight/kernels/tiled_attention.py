"""Attention: softmax(scale * Q K^T) V of many heads and its gradients, in one compiled call each way, no score kept.

Scores, softmax and sums in float32; the weights P and their gradient dS are rounded to bfloat16 for their products, as
tiles of bfloat16 need them. Scores are computed twice, forward and backward; between them only the results and two
numbers of each query are kept, apart, so that no score is too large for them.

Source:   Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; Dao 2023, arXiv:2307.08691 (one pass, one logarithm).
Ancestor: torch.nn.functional.scaled_dot_product_attention, which on a CPU also rounds P and dS; here sums stay float32.
Errors against float64 on the same inputs, element by element, with u = 2^-8 and scores below 2^10:
    out 2u P|V|;  dV 2u P^T|G|;  dQ u (|dQ| + scale E |K|);  dK u (|dK| + scale E^T |Q|),
    where G is the output's gradient and E = |dS| + 2 P sum_d(|G| P|V|);  log(sum(exp(scores))) 2^-20 (1 + its size).
Larger scores are finite float32 sums, with their errors: where those are below 2^-10, the bounds stay as they are.
Numbers too small for a normal bfloat16 count as zero. The number of threads changes no bit.
"""

import math

import torch
from torch import Tensor

from pennyweight.kernels.compiled import operators, required
from pennyweight.kernels.tangents import has_tangent

SIZES = (32, 64, 96, 128)  # of a head, that the tiles take
# Tiles take 32 queries at a time: one query of 1,024 keys took 1.8 ms against 0.8 of PyTorch's, four took as long.
FEWEST = 4


def attends(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether these are best taken by `attention`: plain bfloat16 tensors on a processor with tiles for them (AMX).

    q [B, H, T, D], k and v [B, G, S, D], where G divides H; nothing empty; any strides but within a head's row; at
    least four queries; no tangents.
    """
    return (
        all(_is_plain(x) for x in (q, k, v))
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and q.shape[3] in SIZES
        and q.shape[2] >= FEWEST
        and 0 not in (*q.shape, *k.shape)
        and q.shape[1] % k.shape[1] == 0
        and has_attention()
        and not has_tangent(q, k, v)
    )


@torch.compiler.assume_constant_result
def has_attention() -> bool:
    """Whether this machine computes attention in one call; a constant to `torch.compile`."""
    ops = operators()
    return ops is not None and ops.has_attention()


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """q [B, H, T, D], k, v [B, G, S, D] -> out [B, T, H, D] in bfloat16, norms [2, B, H, T] in float32.

    norms: of each query its largest q k, not yet scaled, and log2(sum(exp(scale (q k - largest)))).
    causal: query i sees keys 0 .. i; scale above 0 multiplies every score; H / G heads of queries share one of keys.
    """
    return required("attention").attention(q, k, v, causal, scale)


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, norms: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `out`, [B, T, H, D], and what the forward pass took and gave -> those of q, k and v.

    Their shapes are those of q, k and v; in memory all heads of a row lie together, like `out`.
    """
    grads = required("attention_backward").attention_backward(_rows(grad), q, k, v, _rows(out), norms, causal, scale)
    dq, dk, dv = (x.transpose(1, 2) for x in grads)
    return dq, dk, dv


def reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """`attention` in PyTorch's own operators, the same roundings in the same places.

    What differs: the order of sums, and that the weights of more than 512 keys are rounded in the scale of the largest
    score so far.
    """
    scores = _scores(q, k, causal=causal)
    most = scores.amax(-1, keepdim=True)
    weights = ((scores - most) * scale).exp()
    total = weights.sum(-1, keepdim=True)
    out = weights.bfloat16().float() @ _shared(v, q) / total
    return out.bfloat16().transpose(1, 2).contiguous(), torch.stack((most, total.log2()))[..., 0]


def reference_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, norms: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`attention_backward` in PyTorch's own operators, the same roundings in the same places."""
    G, O = grad.transpose(1, 2).float(), out.transpose(1, 2).float()  # noqa: E741  # the papers' letter
    most, log = norms[..., None]
    P = ((_scores(q, k, causal=causal) - most) * (scale * math.log2(math.e)) - log).exp2()
    grad_P = G @ _shared(v, q).mT
    grad_S = (P * (grad_P - (G * O).sum(-1, keepdim=True))).bfloat16().float()
    dq = grad_S @ _shared(k, q) * scale
    dk = _gathered(grad_S.mT @ q.float(), k) * scale
    dv = _gathered(P.bfloat16().float().mT @ G, v)
    return dq.bfloat16(), dk.bfloat16(), dv.bfloat16()


def _is_plain(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.dim() == 4
        and x.stride(3) == 1
    )


def _rows(x: Tensor) -> Tensor:
    """x, copied where the numbers of a row do not lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _scores(q: Tensor, k: Tensor, *, causal: bool) -> Tensor:
    scores = q.float() @ _shared(k, q).mT
    if not causal:
        return scores
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~seen, float("-inf"))


def _shared(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values in float32, one head for each of the queries'."""
    return x.float().repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def _gathered(grad: Tensor, x: Tensor) -> Tensor:
    """Gradients [B, H, S, D], summed over the heads that share one of x."""
    return grad.unflatten(1, (x.shape[1], -1)).sum(2)
