"""Doors: which operator of PyTorch computes a product of codes here, and what stands in when it is missing.

The only file that looks up what is private in torch (`_int_mm`, `_scaled_mm`, some of `_C`). Each is looked up when
it is needed, never at import, so a PyTorch that renames an operator still imports, trains and says so in `doctor()`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pennyweight.kernels.compiled import missing
from pennyweight.kernels.gpu import door as gpu
from pennyweight.kernels.tiled_attention import has_attention

INT32_TERMS = (
    131_071  # 131,071 * (-128) * (-128) = 2^31 - 16,384: one more product of two int8 codes could overflow int32
)
EXACT_FLOAT32_TERMS = 1_024  # 1,024 * 2^14 = 2^24: up to here float32 holds every partial sum of two int8 codes exactly
CUDA_ROWS, CUDA_COLUMNS = 17, 8  # cuBLAS asks for more than 16 rows, and for k and n in multiples of 8

FLOAT8_COLUMNS = 16  # the float8 operator of a GPU asks for k and n in multiples of 16
HAS_FLOAT8, ROW_SCALED = (8, 9), (9, 0)  # compute capability from which it multiplies float8, and takes a scale a row


class Door(NamedTuple):
    """One line of `doctor()`: an operation, the operator that computes it on this machine, and why that one."""

    operation: str
    door: str
    why: str


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 (m, k), int8 (n, k) -> a @ b.T, exact for every k: int32, or int64 where int32 could overflow.

    Any strides, any size, empty ones too. More than 131,071 terms are summed in parts. On a CPU the second operand goes
    in as a transposed view: over the shapes of a GPT-2 layer that was never slower than a contiguous copy together with
    the copying (2048 x 256 x 768: 0.66 against 0.90 ms on two threads).
    """
    terms = a.shape[1]
    if terms <= INT32_TERMS:
        return _int32_product(a, b)
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int64, device=a.device)
    for start in range(0, terms, INT32_TERMS):
        total += _int32_product(a[:, start : start + INT32_TERMS], b[:, start : start + INT32_TERMS])
    return total


def float8_product(a: Tensor, b: Tensor) -> Tensor:
    """float8 (m, k), float8 of the same dtype (n, k) -> a @ b.T in float32, summed in float32."""
    operator = _operator("_scaled_mm")
    if operator is None or 0 in (*a.shape, *b.shape) or (a.is_cuda and not _is_float8_pair(a, b)):
        return a.float() @ b.float().T
    one, n = torch.ones((), device=a.device), b.shape[0]
    if a.is_cuda:
        a, b = _padded(a, 1, FLOAT8_COLUMNS), _padded(b, FLOAT8_COLUMNS, FLOAT8_COLUMNS)
    return operator(a.contiguous(), b.contiguous().T, scale_a=one, scale_b=one, out_dtype=torch.float32)[:, :n]


def float8_linear(a: Tensor, b: Tensor, row: Tensor | None, column: Tensor | None, bias: Tensor | None) -> Tensor:
    """float8 (m, k), float8 (n, k) -> (a row) @ (b column).T + bias in bfloat16, in one call.

    row, column: float32 scales (m, 1) and (n, 1), or (1, 1), or None: 1. Only where `float8_is_linear` says so. The sum
    is float32, the bias rounded to bfloat16 before it is added.
    """
    operator = _operator("_scaled_mm")
    assert operator is not None
    low = None if bias is None else bias.to(torch.bfloat16)
    scales = {"scale_a": _scale_column(row, a), "scale_b": _scale_column(column, b).T}
    return operator(a.contiguous(), b.contiguous().T, bias=low, **scales, out_dtype=torch.bfloat16)


def float8_is_linear(a: Tensor, b: Tensor) -> bool:
    """Whether `float8_linear` takes these codes: e4m3, of sizes and on a GPU that its operator knows."""
    return (
        a.is_cuda
        and a.dtype == b.dtype == torch.float8_e4m3fn
        and 0 not in (*a.shape, *b.shape)
        and a.shape[1] % FLOAT8_COLUMNS == 0 == b.shape[0] % FLOAT8_COLUMNS
        and _operator("_scaled_mm") is not None
        and torch.cuda.get_device_capability(a.device) >= ROW_SCALED
    )


def float8_is_fast() -> bool:
    """Whether the float8 operator is worth taking: PyTorch's CPU version sums one number at a time.

    2048 x 256 x 1024 took 9.6 s on a CPU that multiplies the decoded values in bfloat16 in 2.7 ms.
    """
    return (
        _operator("_scaled_mm") is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= HAS_FLOAT8
    )


def is_differentiating() -> bool:
    """Whether autograd computes gradients on this thread now: a forward pass met here is a recomputation.

    PyTorch says so in no public way. Without its private one the answer is no, and a whole model that is recomputed
    (`torch.utils.checkpoint`) then counts as one more micro-batch.
    """
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is not None and task() != -1


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp ...) runs on this thread now; no, where torch cannot tell."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is not None and active()


def is_forward_only() -> bool:
    """Whether every transform of torch.func on this thread is a jvp, which asks for tangents and nothing else."""
    functorch = getattr(torch._C, "_functorch", None)
    stack = getattr(functorch, "get_interpreter_stack", None)
    return stack is not None and all(level.key().name == "Jvp" for level in stack() or ())


def doctor() -> list[Door]:
    """Which door each operation on codes takes on this machine, and why; compiles the C++ kernels if need be."""
    lines = []
    if (why := missing()) is None:
        door = f"{torch.ops.pennyweight.door_name()}, compiled C++"
        lines.append(Door("int8 linear layer", door, "the best that this processor and its compiler have"))
        tiles = has_attention()
        why = "bf16, causal or whole, no mask" if tiles else "this processor has no tiles for bf16 (AMX)"
        lines.append(Door("attention", "AMX, compiled C++" if tiles else "PyTorch's", why))
        lines.append(Door("SiLU and GELU", "compiled C++", "one pass over memory each way"))
        arena = torch.ops.pennyweight.has_arena()
        why = "freed blocks are kept, the lowest hole is taken" if arena else "addresses are limited here (ulimit -v)"
        lines.append(Door("large CPU tensors in training", "an arena" if arena else "the system's allocator", why))
    else:
        lines.append(Door("int8 linear layer", "the operators below", why))
        lines.append(Door("attention, SiLU and GELU", "PyTorch's", why))
    why = gpu.obstacle()
    door = "the operators below" if why else gpu.NAME
    lines.append(Door("int8 linear layer and AdamW on a GPU", door, why or gpu.reason()))
    if _operator("_int_mm") is None:
        why = "this PyTorch has no torch._int_mm; chunks of 1,024 terms are exact in float32"
        lines.append(Door("int8 product", "float32 matmul in chunks", why))
    else:
        lines.append(Door("int8 product", "torch._int_mm", "exact in int32; sums of more than 131,071 terms are split"))
    if _operator("_scaled_mm") is None:
        why = "this PyTorch has no torch._scaled_mm; the decoded values are multiplied"
        lines.append(Door("float8 product", "emulated", why))
    elif float8_is_fast():
        lines.append(Door("float8 product", "torch._scaled_mm", "a GPU that multiplies float8 is here"))
    else:
        why = "torch._scaled_mm is exact on a CPU but sums one number at a time; taken only when a recipe says real"
        lines.append(Door("float8 product", "emulated", why))
    return lines


def _operator(name: str) -> Callable[..., Tensor] | None:
    return getattr(torch, name, None)


def _int32_product(a: Tensor, b: Tensor) -> Tensor:
    """At most 131,071 terms, so int32 holds the sums."""
    operator = _operator("_int_mm")
    if operator is None:
        return _public_int32_product(a, b)
    if a.is_cuda:
        return _padded_int32_product(operator, a, b)
    return operator(_clear(a), _clear(b.T))


def _clear(x: Tensor) -> Tensor:
    """x, copied where its strides leave open which dimension is the leading one.

    torch 2.13's `_int_mm` silently gives wrong sums on a CPU for such operands: strides (1, 1), which one row or one
    column may have, and strides of 0.
    """
    rows, columns = x.shape
    by_rows = x.stride(1) == 1 and x.stride(0) >= columns
    by_columns = x.stride(0) == 1 and x.stride(1) >= rows > 1
    return x if by_rows or by_columns else x.clone(memory_format=torch.contiguous_format)


def _padded_int32_product(operator: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A GPU's sizes are met with zero codes, which add nothing to a sum."""
    m, k = a.shape
    n = b.shape[0]
    rows, terms, columns = max(m, CUDA_ROWS), -(-max(k, 1) // CUDA_COLUMNS) * CUDA_COLUMNS, -(-n // CUDA_COLUMNS)
    columns = max(columns, 1) * CUDA_COLUMNS
    a = functional.pad(a, (0, terms - k, 0, rows - m)).contiguous()
    b = functional.pad(b, (0, terms - k, 0, columns - n)).contiguous()
    return operator(a, b.T)[:m, :n]


def _is_float8_pair(a: Tensor, b: Tensor) -> bool:
    """Whether a GPU multiplies these: two e5m2 matrices no tensor core takes, and not every GPU has float8."""
    e5m2 = a.dtype == b.dtype == torch.float8_e5m2
    return not e5m2 and torch.cuda.get_device_capability(a.device) >= HAS_FLOAT8


def _scale_column(scales: Tensor | None, codes: Tensor) -> Tensor:
    """One float32 scale for every row of the codes, [R, 1]."""
    one = torch.ones(1, 1, device=codes.device) if scales is None else scales
    return one.float().expand(codes.shape[0], 1).contiguous()


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    """float8 codes with zeros behind them, so that rows and columns are such multiples; a zero's code is 0."""
    m, k = codes.shape
    zeros = (0, -k % columns, 0, -m % rows)
    return codes if zeros == (0, 0, 0, 0) else functional.pad(codes.view(torch.uint8), zeros).view(codes.dtype)


def _public_int32_product(a: Tensor, b: Tensor) -> Tensor:
    """The same sums through float32 products short enough to be exact."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], EXACT_FLOAT32_TERMS):
        stop = start + EXACT_FLOAT32_TERMS
        total += (a[:, start:stop].float() @ b[:, start:stop].float().T).to(torch.int32)
    return total
