"""Operands: the six tensors a linear layer multiplies, and whether their codes can be summed as they stand.

Every product is written a @ b.T, so that rows of both operands run along the summed dimension k:

    output       Y  = X W^T       a = X   [T, I]   b = W   [O, I]   k = in channels
    grad_input   dX = G W         a = G   [T, O]   b = W^T [I, O]   k = out channels
    grad_weight  dW = G^T X       a = G^T [O, T]   b = X^T [I, T]   k = tokens
"""

from dataclasses import dataclass, replace
from typing import Literal

from pennyweight.kernels import real_reason
from pennyweight.numerics import Cast, Scale

ProductName = Literal["output", "grad_input", "grad_weight"]
Seen = Literal["cast", "transposed", "folded"]

PRODUCTS: tuple[ProductName, ...] = ("output", "grad_input", "grad_weight")
SUMMED = {"output": "in channel", "grad_input": "out channel", "grad_weight": "token"}

WAYS_OUT = (
    "requantise that tensor along the summed dimension (backward='requantized'), fold its scale into the other "
    "operand (backward='folded'), use square blocks for all three products (such as 'int8/square32'), or leave that "
    "product in high precision (no cast)"
)


@dataclass(frozen=True)
class Operand:
    """One tensor of one product, as the product reads it.

    cast        how it was written, relative to the matrix that was cast (None: unwritten)
    seen        "cast": written in this product's own orientation;
                "transposed": the forward's written tensor, whose rows now run across the summed dimension;
                "folded": the forward's codes alone, their scales having moved into the other operand
    """

    tensor: str
    cast: Cast | None
    seen: Seen = "cast"

    def as_read(self) -> Cast | None:
        """The equivalent cast in the orientation a @ b.T; None where unwritten. Only for operands without a problem."""
        if self.cast is None or self.seen == "cast":
            return self.cast
        if self.seen == "folded":
            return replace(self.cast, scale=Scale("tensor"))
        turned = {"row": "column", "column": "row"}.get(self.cast.scale.granularity, self.cast.scale.granularity)
        return replace(self.cast, scale=replace(self.cast.scale, granularity=turned))

    def problem(self, product: ProductName) -> str | None:
        """Why a scale of this operand cannot leave the sum over k; None if it can."""
        if self.cast is None or self.seen == "folded":
            return None
        across = self.seen == "transposed"
        if across and self.cast.rotation is not None:
            return f"the forward's codes of {self.tensor} are rotated along another dimension than the one summed here"
        granularity = self.cast.scale.granularity
        if granularity == "block" and across:
            return f"blocks of {self.tensor} lie across the summed dimension"
        if granularity == ("row" if across else "column"):
            return f"one scale per {SUMMED[product]} of {self.tensor} stands inside the sum over {SUMMED[product]}s"
        return None


def pair_problem(left: Operand, right: Operand, product: ProductName) -> tuple[Operand, str] | None:
    """The operand that keeps a @ b.T from being computed on codes, and why; None if the codes can be summed.

    A scale must be able to leave the sum over k: one a row or one a tensor is undone at the output, blocks along k and
    square blocks cost one partial sum a block; nothing else can leave it. What else a kernel asks of two casts, kernels
    say. Both operands must be written.

    Source: the legality table was derived for this project and checked in float64 (factored = emulated to 1e-12).
    """
    for operand in (left, right):
        if why := operand.problem(product):
            return operand, why
    a, b = left.as_read(), right.as_read()
    assert a is not None
    assert b is not None
    if why := real_reason(a, b):
        return (left if real_reason(a, a) else right), why
    return None
