"""Linear: y = x W^T + b as three products whose six operands are written as a recipe says.

output       Y  = X W^T + b   X [T, I], W [O, I]
grad_input   dX = G W         G [T, O]
grad_weight  dW = G^T X       and the bias gradient from the unwritten G
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from pennyweight.kernels import (
    has_tangent,
    int8_linear,
    is_compiled,
    is_forward_only,
    is_transformed,
    primal,
    refuse_tangent,
    write_rows,
    written_linear,
)
from pennyweight.nn.autocast import autocast_dtype, without_autocast
from pennyweight.nn.layer import Layer, slot_cast
from pennyweight.nn.operands import Kept, Operand, Raw, Written, multiply
from pennyweight.nn.tangents import with_tangent
from pennyweight.numerics import Quantized, Stored, stored_of
from pennyweight.recipes import LinearCasts


class _Written(nn.Module):
    """What both kinds of written layers have: a weight that may be its codes, in what they load and where they move."""

    layer: Layer

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: Any,
        missing_keys: list[str],
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        """A weight that is its codes is loaded with them: torch does not miss it."""
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if self.layer.stored is not None and (name := f"{prefix}weight") in missing_keys:
            missing_keys.remove(name)

    def _apply(self, *args: Any, **settings: Any) -> Self:
        """Codes hold their one number again, after another dtype or device gave it the memory of all."""
        stored = self.layer.stored
        if stored is not None:
            stored.check(self._parameter())
        super()._apply(*args, **settings)
        if stored is not None and stored_of(weight := self._parameter()) is stored:
            stored.stamp(weight)
        return self

    def _parameter(self) -> nn.Parameter:
        weight = self.weight
        assert isinstance(weight, nn.Parameter)
        return weight


class WrittenLinear(_Written, nn.Linear):
    """torch.nn.Linear whose operands are written; made by `quantize`, never built."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        return linear(self.layer, input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_described(self.layer.casts)}"


class WrittenConv1D(_Written, Conv1D):
    """transformers' Conv1D, a linear layer that keeps W^T, whose operands are written; made by `quantize`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.layer, x, self.weight, self.bias, turned=True)

    def __repr__(self) -> str:
        return f"WrittenConv1D(nf={self.nf}, nx={self.nx}, {_described(self.layer.casts)})"


PLAIN: dict[type[nn.Module], Any] = {WrittenLinear: nn.Linear, WrittenConv1D: Conv1D}  # what they were


def linear(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool = False) -> Tensor:
    """x [..., I] -> [..., O]; `turned`: the weight lies as [I, O].

    Raises TypeError for integer inputs and, outside autocast, for an input and a weight of two dtypes; ValueError for a
    last dimension other than I, and under a transform of torch.func.
    """
    matrix = weight.T if turned else weight  # [O, I]
    dtype = _result_dtype(layer, x, matrix)
    compiling = torch.compiler.is_compiling()
    if compiling and has_tangent():
        return _uncompiled(layer, x, weight, bias, turned=turned)
    if not compiling and layer.shared.activations and is_transformed() and not is_forward_only():
        raise ValueError(
            f"layer {layer.name} is written by a function of autograd, which of torch.func only jvp can transform; use "
            "backward(), or the model before quantize"
        )
    if not compiling and layer.stored is not None and stored_of(weight) is not layer.stored:
        raise RuntimeError(
            f"the weight of layer {layer.name} is its codes, and the parameter given for it does not stand for them (a "
            "copy of a part of the model, another parameter in its place); copy the whole model, or load codes"
        )
    if not compiling and layer.stored is not None:
        layer.stored.check(weight)
    rows = x.reshape(-1, matrix.shape[1]) if matrix.shape[1] else x.reshape(x.shape[:-1].numel(), 0)
    if not compiling and (is_transformed() or has_tangent(x, weight, bias)):
        y = _with_tangents(layer, rows, weight, bias, dtype=dtype, turned=turned)
    elif _takes_one_operator(layer, rows, weight, dtype):
        y = _one_operator(layer, x, rows.contiguous(), weight, bias, dtype=dtype, turned=turned)
    else:
        y = (_outside if compiling else _in_pieces)(layer, x, rows, weight, bias, dtype=dtype, turned=turned)
    return y.view(*x.shape[:-1], matrix.shape[0])


def _takes_one_operator(layer: Layer, rows: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether this call is `written_linear`; not of a frozen weight, whose layer need not keep its input."""
    kept = weight if layer.stored is None else layer.stored.codes
    return (
        "gradients" in layer.fused
        and layer.shared.activations
        and (weight.requires_grad or not torch.is_grad_enabled())
        and type(rows) in (Tensor, nn.Parameter)
        and (rows.device.type == "cpu" or not torch.compiler.is_compiling())  # a GPU's operators are looked up eagerly
        and is_compiled(rows, kept, dtype, rows.dtype, weight.dtype)
    )


def _one_operator(
    layer: Layer, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, turned: bool
) -> Tensor:
    """Y [T, O] of the rows [T, I] of x by `written_linear`; a compiled model keeps it in its graph."""
    if torch.compiler.is_compiling():
        written = write_rows(rows)  # equal ones in one graph are merged there: q, k and v still share their input
        codes, scales = written.numbers, written.scales
    else:
        cast = layer.casts.output.left
        assert cast is not None
        quantized = layer.shared.write(x, rows, cast)
        codes, scales = quantized.codes, quantized.scales
    assert scales is not None
    folded = layer.casts.backward == "folded"
    stored = None if layer.stored is None else (layer.stored.codes, layer.stored.scales)
    return written_linear(rows, codes, scales, weight, bias, turned=turned, folded=folded, dtype=dtype, stored=stored)


def _in_pieces(
    layer: Layer, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, turned: bool
) -> Tensor:
    """Y [T, O] product by product, whatever the casts."""
    matrix = weight.T if turned else weight
    if not layer.shared.activations:
        return functional.linear(rows, layer.weight(matrix).to(matrix.dtype), bias)
    call = Call(layer.casts, layer.real, layer.fused, layer.keys(), dtype, turned, layer.stored)
    written = _shared_input(layer, call, x, rows, weight)
    return _Linear.apply(rows, weight, bias, written, call)  # type: ignore[return-value]  # apply is untyped


def _with_tangents(
    layer: Layer, rows: Tensor, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, turned: bool
) -> Tensor:
    """Y [T, O] product by product, and its tangent; under torch.func.jvp it has no gradient beside it."""
    x, w, b = primal(rows), primal(weight), None if bias is None else primal(bias)
    call = Call(layer.casts, layer.real, layer.fused, layer.keys(), dtype, turned, layer.stored)
    if is_transformed() and layer.shared.activations:
        with torch.no_grad(), without_autocast(x.device):
            y = _output(x, w, b, _shared_input(layer, call, x, x, w), call)
    else:
        y = _in_pieces(layer, x, x, w, b, dtype=dtype, turned=turned)
    cast = layer.casts.output.left if layer.shared.activations else None
    return with_tangent(
        y, rows, call.matrix(weight), bias, dtype=dtype, read_weight=layer.weight,
        read_input=lambda x: x if cast is None else cast(x, call.keys.get("output.left")),
    )  # fmt: skip


_outside: Callable[..., Tensor] = torch.compiler.disable(_in_pieces)  # type: ignore[assignment]  # a compiled model breaks its graph here


_uncompiled: Callable[..., Tensor] = torch.compiler.disable(linear)  # type: ignore[assignment]  # and here


@dataclass(frozen=True)
class Call:
    """One call of a layer, as its backward pass needs it again."""

    casts: LinearCasts
    real: frozenset[str]  # the products computed on codes
    fused: frozenset[str]  # "output" and "gradients": what compiled operators do
    keys: dict[str, int]
    dtype: torch.dtype  # of the result, and of products of decoded values
    turned: bool
    stored: Stored | None

    def matrix(self, weight: Tensor) -> Tensor:
        """W as [O, I]."""
        return weight.T if self.turned else weight

    def weight(self, weight: Tensor) -> Raw | Written:
        """W [O, I] as the forward product reads it."""
        if self.stored is not None:
            return Written(self.stored.written)
        return self.raw(self.matrix(weight), "output.right")

    def raw(self, tensor: Tensor, slot: str) -> Raw:
        """An unwritten operand and the cast its slot has for it."""
        return Raw(tensor, slot_cast(self.casts, slot), self.keys.get(slot))

    @property
    def folded_dtype(self) -> torch.dtype:
        """Of decoded products with folded scales: G times a small scale would leave the range of float16."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, written: Quantized | None, call: Call
    ) -> Tensor:
        with without_autocast(x.device):
            y = _output(x, weight, bias, written, call)
            needs_x, needs_weight = ctx.needs_input_grad[:2]
            kept, tensors = _keep(x, written, call) if needs_weight else (None, ())
        ctx.call, ctx.kept, ctx.x_dtype = call, kept, x.dtype
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        # The codes, where there are any: torch then notices an optimizer that changes them before they are read again.
        ctx.save_for_backward((weight if call.stored is None else call.stored.codes) if needs_x else None, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_tangent(grad)
        weight, *kept = ctx.saved_tensors
        with without_autocast(grad.device):
            grad_x = grad_weight = grad_bias = None
            x = ctx.kept.load(kept) if ctx.needs_input_grad[1] else None
            if ctx.needs_input_grad[0]:
                grad_x = _grad_input(ctx.call, grad, weight, ctx.x_dtype)
            if x is not None:
                grad_weight = _grad_weight(ctx.call, grad, x, ctx.weight_dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum(0, dtype=_wide(grad.dtype)).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _output(x: Tensor, weight: Tensor, bias: Tensor | None, written: Quantized | None, call: Call) -> Tensor:
    """Y [T, O] = X [T, I] W^T [I, O] + b."""
    kept = weight if call.stored is None else call.stored.codes
    if written is not None and "output" in call.fused and is_compiled(written.codes, kept, call.dtype):
        return int8_linear(
            written.codes,
            written.scales,
            kept,
            bias,
            turned=call.turned,
            dtype=call.dtype,
            weight_scales=_scales(call),
        )
    left = call.raw(x, "output.left") if written is None else Written(written)
    return multiply(left, call.weight(weight), real="output" in call.real, dtype=call.dtype, bias=bias)


def _scales(call: Call) -> Tensor | None:
    return None if call.stored is None else call.stored.scales


def _grad_input(call: Call, grad: Tensor, weight: Tensor, out: torch.dtype) -> Tensor:
    """dX [T, I] = G [T, O] W [O, I]; `weight` as it lies."""
    forward, left = call.weight(weight), call.raw(grad, "grad_input.left")
    right: Operand
    real, dtype = "grad_input" in call.real, call.dtype
    if isinstance(forward, Raw) and call.casts.backward == "requantized":
        right = call.raw(forward.tensor.T, "grad_input.right")
    elif isinstance(forward, Raw) and (call.casts.backward == "original" or forward.cast is None):
        right = Raw(forward.tensor.T)
    else:
        right = Written(forward.write() if isinstance(forward, Raw) else forward.written, turned=True)
        if call.casts.backward == "folded":
            left, right, dtype = left.folded(right.scales.T), right.unscaled(), call.folded_dtype
    return multiply(left, right, real=real, dtype=dtype, out=out)


def _grad_weight(call: Call, grad: Tensor, x: Operand, out: torch.dtype) -> Tensor:
    """dW [O, I] = G^T [O, T] X [T, I]; [I, O] where the weight lies so."""
    left = call.raw(grad.T, "grad_weight.left")
    real, dtype = "grad_weight" in call.real, call.dtype
    if isinstance(x, Written) and call.casts.backward == "folded":
        left, x, dtype = left.folded(x.scales.T), x.unscaled(), call.folded_dtype
    a, b = (x, left) if call.turned else (left, x)
    return multiply(a, b, real=real, dtype=dtype, out=out)


def _keep(x: Tensor, written: Quantized | None, call: Call) -> tuple[Kept, tuple[Tensor, ...]]:
    """What the backward pass keeps of X [T, I]: codes wherever the recipe reads codes or says how to store it."""
    casts = call.casts
    if written is not None and casts.backward in ("forward", "folded"):
        return Kept.of(written)
    right = call.raw(x.T, "grad_weight.right") if casts.backward == "requantized" else Raw(x.T)
    if casts.saved is not None:
        stored = casts.saved.write(x, call.keys.get("saved"))
        return Kept.of(stored, stored=True, again=right.cast, key=right.key)
    if right.cast is not None:
        return Kept.of(right.write(), turned=False)
    return Kept(), (x.to(call.dtype),)


def _shared_input(layer: Layer, call: Call, x: Tensor, rows: Tensor, weight: Tensor) -> Quantized | None:
    """The input written, where codes are multiplied or kept; None where rounding it is enough."""
    cast = call.casts.output.left
    if cast is None:
        return None
    keeps = torch.is_grad_enabled() and weight.requires_grad and call.casts.backward in ("forward", "folded")
    if not (keeps or "output" in call.real):
        return None
    with torch.no_grad(), without_autocast(x.device):
        if cast.rounding == "nearest":
            return layer.shared.write(x, rows, cast)
        return cast.write(rows, call.keys.get("output.left"))


def _result_dtype(layer: Layer, x: Tensor, weight: Tensor) -> torch.dtype:
    if not x.is_floating_point():
        raise TypeError(f"layer {layer.name} casts floating-point inputs, got {x.dtype}")
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"layer {layer.name} takes inputs whose last dimension is {weight.shape[1]}, got {tuple(x.shape)}"
        )
    if (dtype := autocast_dtype(x, weight)) is not None:
        return dtype
    if x.dtype != weight.dtype:
        raise TypeError(
            f"layer {layer.name} holds {weight.dtype}, got an input of {x.dtype}; use autocast or one dtype"
        )
    return x.dtype


def _described(casts: LinearCasts) -> str:
    forward = f"x={casts.output.left}, w={casts.output.right}"
    return f"{forward}, g={casts.grad_input.left} and {casts.grad_weight.left}, backward={casts.backward}"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
