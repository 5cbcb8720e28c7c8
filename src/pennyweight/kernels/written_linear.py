"""Written linear: a linear layer on the int8 codes of its input, as one operator of torch's that has gradients.

Made of the fused operators of its device, and known to `torch.compile` beside them. The reference is what
`nn/linear.py` does with `multiply`: see integer_linear.py for how far they may differ.
"""

from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional

from pennyweight.kernels import operators
from pennyweight.kernels.described import refuse
from pennyweight.kernels.tangents import refuse_tangent
from pennyweight.kernels.writes import write_rows
from pennyweight.numerics import Quantized, cast

INT8 = cast("int8/row")


def written_linear(
    x: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, bias: Tensor | None,
    *, turned: bool, folded: bool, dtype: torch.dtype, stored: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Codes [T, I], scales [T, 1], weight [O, I] ([I, O] if `turned`) -> Y [T, O] of `int8_linear`, and its gradients.

    x [T, I] is what was written; it is not read and only takes the gradient. Kept for the backward pass: the codes,
    their scales, and the weight.

    stored: the codes, lying as the weight does, and scales [O] of a weight that is nothing else: they are read, and the
            weight too only takes its gradient. On a CPU, folded.
    folded: dX, dW and db are those of `int8_linear_backward`; else dX = G W and dW = G^T X with what the codes of W and
            X tell, products in `dtype`, and db is the sum of G in float32.
    """
    operator, extra = torch.ops.pennyweight.written_linear, () if stored is None else stored
    return operator(x, codes, scales.view(-1), weight, bias, turned, folded, dtype, *extra)


def _linear(
    x: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, bias: Tensor | None,
    turned: bool, folded: bool, dtype: torch.dtype, stored: Tensor | None = None, stored_scales: Tensor | None = None,
) -> Tensor:  # fmt: skip
    fused = operators.required("written_linear", codes.device)
    read, extra = (weight, ()) if stored is None else (stored, (stored_scales,))
    b = None if bias is None else bias.float().contiguous()
    return fused.int8_linear(codes, scales, read, turned, b, dtype, *extra)


def _linear_shape(
    x: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, bias: Tensor | None,
    turned: bool, folded: bool, dtype: torch.dtype, stored: Tensor | None = None, stored_scales: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return x.new_empty((codes.shape[0], weight.shape[1 if turned else 0]), dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, scales, weight, bias, ctx.turned, ctx.folded, ctx.dtype, stored, stored_scales = inputs
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
    # The codes, where there are any: torch then notices an optimizer that changes them before they are read again.
    kept = (weight,) if stored is None else (stored, stored_scales)
    ctx.save_for_backward(codes, scales, *kept)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    refuse_tangent(grad)
    codes, scales, weight, *extra = ctx.saved_tensors
    ops, fused = torch.ops.pennyweight, operators.required("written_linear", codes.device)
    grad_x = grad_weight = None
    if ctx.folded:
        grad_x, grad_weight, total = fused.int8_linear_backward(
            grad.contiguous(), codes, scales, weight, ctx.turned, ctx.x_dtype, *extra
        )
    else:
        if ctx.needs_input_grad[0]:
            grad_x = ops.decoded_grad_input(grad, weight, ctx.turned, ctx.dtype, ctx.x_dtype)
        if ctx.needs_input_grad[3]:
            grad_weight = ops.decoded_grad_weight(grad, codes, scales, ctx.turned, ctx.dtype, weight.dtype)
        total = grad.sum(0, dtype=torch.float32)
    grad_bias = None if ctx.bias_dtype is None else total.to(ctx.bias_dtype)
    return grad_x, None, None, grad_weight, grad_bias, None, None, None, None, None


def _grad_input(grad: Tensor, weight: Tensor, turned: bool, dtype: torch.dtype, out: torch.dtype) -> Tensor:
    written = write_rows(weight.T if turned else weight)
    assert written.scales is not None
    return _product(grad, _read(written.numbers, written.scales).T, dtype, out)


def _grad_input_shape(grad: Tensor, weight: Tensor, turned: bool, dtype: torch.dtype, out: torch.dtype) -> Tensor:
    return grad.new_empty((grad.shape[0], weight.shape[0 if turned else 1]), dtype=out)


def _grad_weight(
    grad: Tensor, codes: Tensor, scales: Tensor, turned: bool, dtype: torch.dtype, out: torch.dtype
) -> Tensor:
    left, right = grad.T, _read(codes, scales).T
    return _product(right, left, dtype, out) if turned else _product(left, right, dtype, out)


def _grad_weight_shape(
    grad: Tensor, codes: Tensor, scales: Tensor, turned: bool, dtype: torch.dtype, out: torch.dtype
) -> Tensor:
    outputs, inputs = grad.shape[1], codes.shape[1]
    return grad.new_empty((inputs, outputs) if turned else (outputs, inputs), dtype=out)


def _read(codes: Tensor, scales: Tensor) -> Tensor:
    """What codes [R, C] and one scale a row tell, in float32."""
    return Quantized(codes, scales.view(-1, 1), None, None, tuple(codes.shape), INT8).read()


def _product(left: Tensor, right: Tensor, dtype: torch.dtype, out: torch.dtype) -> Tensor:
    """(m, k), (n, k) -> left @ right.T, computed in `dtype`, also where autocast would have another one."""
    with torch.autocast(left.device.type, enabled=False):
        return functional.linear(left.to(dtype), right.to(dtype)).to(out)


SCHEMAS = {
    "written_linear": "(Tensor x, Tensor codes, Tensor scales, Tensor weight, Tensor? bias, bool turned, bool folded, "
    "ScalarType dtype, Tensor? stored=None, Tensor? stored_scales=None) -> Tensor",
    "decoded_grad_input": "(Tensor grad, Tensor weight, bool turned, ScalarType dtype, ScalarType out) -> Tensor",
    "decoded_grad_weight": "(Tensor grad, Tensor codes, Tensor scales, bool turned, ScalarType dtype, ScalarType out)"
    " -> Tensor",
}
for _name, _compute, _shape, _backward, _kept in (
    ("written_linear", _linear, _linear_shape, _gradients, _keep),
    ("decoded_grad_input", _grad_input, _grad_input_shape, refuse, None),
    ("decoded_grad_weight", _grad_weight, _grad_weight_shape, refuse, None),
):
    library.define(f"pennyweight::{_name}", SCHEMAS[_name])
    library.impl(f"pennyweight::{_name}", ("CPU", "CUDA"), _compute)
    library.register_fake(f"pennyweight::{_name}", _shape)
    library.register_autograd(f"pennyweight::{_name}", _backward, setup_context=_kept)
