"""Activation functions: SiLU and the GELUs in one pass over memory, and their slopes in 8 bits for the backward pass.

The reference is `values` in torch, in float64; the compiled operators keep to it within the bounds stated below, with
the same bits on every instruction set.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from pennyweight.kernels.compiled import are_loaded, required
from pennyweight.kernels.tangents import has_tangent

Function = Literal["silu", "gelu_tanh", "quick_gelu", "gelu"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)  # the operators call them by their place
STEPS, ZERO = 200, 27  # a slope s is kept as round(200 s) + 27: 0 and 1 exact, others within 1/400; 255: NaN


def values(x: Tensor, function: Function) -> tuple[Tensor, Tensor]:
    """y = f(x) and the slope f'(x), elementwise in float64: what the operators are measured against.

    With s the logistic function, y = x s(x) for SiLU, x s(1.702 x) for quick GELU and x s(2 c (x + 0.044715 x^3)),
    c = sqrt(2 / pi), for GELU by tanh; y = x Phi(x), Phi the normal distribution, for GELU.
    Source: Hendrycks & Gimpel, arXiv:1606.08415; Elfwing et al., arXiv:1702.03118.
    """
    x = x.double()
    if function == "gelu":
        share = (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * share, share + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    c = 2 * math.sqrt(2 / math.pi)
    a, b = {"silu": (1.0, 0.0), "quick_gelu": (1.702, 0.0), "gelu_tanh": (c, c * 0.044715)}[function]
    share = torch.sigmoid(a * x + b * x**3)
    return x * share, share + x * share * (1 - share) * (a + 3 * b * x * x)


def has_activation(x: Tensor) -> bool:
    """Whether the compiled operators take this tensor: float32 or bfloat16 on a CPU that has them, without a tangent,
    which they do not compute.
    """
    return (
        x.device.type == "cpu"
        and type(x) in (Tensor, torch.nn.Parameter, FakeTensor)
        and x.dtype in (torch.float32, torch.bfloat16)
        and are_loaded()
        and not has_tangent(x)
    )


def activation(x: Tensor, function: Function) -> Tensor:
    """y = f(x), of the shape and dtype of x; has a gradient, which keeps x itself.

    |y - f(x)| <= 1e-6 + (u + 2^-22) |f(x)| with u = 2^-24 in float32, 2^-8 in bfloat16; the slope within 3e-6.
    """
    return required("activation").activation(x.contiguous(), FUNCTIONS.index(function))


def activation_saving(x: Tensor, function: Function) -> tuple[Tensor, Tensor]:
    """y = f(x) and the codes (uint8) of the slopes f'(x), each of them within 1/400; has a gradient, which keeps the
    codes: a quarter of what float32 holds, half of bfloat16.
    """
    return required("activation_saving").activation_saving(x.contiguous(), FUNCTIONS.index(function))
