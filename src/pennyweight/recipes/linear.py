"""Linear casts: how the six operands of a linear layer are written, and what its backward pass reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pennyweight.kernels import slow_reason
from pennyweight.numerics import Cast, Shifted, cast
from pennyweight.recipes.operands import PRODUCTS, WAYS_OUT, Operand, ProductName, pair_problem
from pennyweight.spelling import check_fields, check_kind, choose

Backward = Literal["original", "forward", "requantized", "folded"]
Way = Literal["auto", "real", "emulated"]


@dataclass(frozen=True)
class Product:
    """The casts of the two operands of one product a @ b.T; None leaves an operand as it is.

    A cast is relative to the operand as it stands in a @ b.T, where rows run along the summed dimension: one scale a
    row can always leave the sum, one scale a column never.
    """

    left: Cast | None = None
    right: Cast | None = None

    def __post_init__(self) -> None:
        for side in ("left", "right"):
            check_kind(f"Product.{side}", getattr(self, side), Cast | None, "a cast, cast('int8/row'), or None")

    def to_dict(self) -> dict[str, str | None]:
        return {"left": _text(self.left), "right": _text(self.right)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Product":
        check_fields("Product", values, [f.name for f in fields(cls)])
        return cls(**{side: read_cast(f"Product.{side}", values.get(side)) for side in ("left", "right")})


@dataclass(frozen=True)
class LinearCasts:
    """A linear layer is three products, so six casts: no other slot exists.

        output       Y  = X W^T  left X [T, I]    right W [O, I]
        grad_input   dX = G W    left G [T, O]    right W^T [I, O]
        grad_weight  dW = G^T X  left G^T [O, T]  right X^T [I, T]

    The casts of G are relative to these orientations: row in grad_weight is one scale per out channel of G, and one
    scale per token (what the published code uses there) is "column". `backward` says what the right operands of the
    two gradient products are:

        original     the unwritten W and X (the published code; its gradient belongs to neither network)
        forward      the written W and X, decoded (the straight-through gradient of quantization-aware training)
        requantized  W^T and X^T written again by grad_input.right and grad_weight.right (None: unwritten)
        folded       the codes of the forward pass; their scales are multiplied into G before G is cast:
                     dX = Q(G diag(s_w)) q_w,   dW = Q(diag(s_x) G)^T q_x

    `saved` writes the input kept for the backward pass where that pass would otherwise keep the unwritten X. `way`
    asks for arithmetic on codes ("real"), on decoded values ("emulated"), or real wherever possible ("auto").

    Source:   Chitsaz et al. 2024, arXiv:2407.11722 (original); folding was derived for this project.
    Ancestor: no casts is torch.nn.Linear, bit for bit.
    """

    output: Product = Product()
    grad_input: Product = Product()
    grad_weight: Product = Product()
    backward: Backward = "folded"
    saved: Cast | None = None
    way: Way = "auto"

    def __post_init__(self) -> None:
        for name in PRODUCTS:
            check_kind(f"LinearCasts.{name}", getattr(self, name), Product, "a Product of two casts")
        check_kind("LinearCasts.saved", self.saved, Cast | None, "a cast, cast('int8/row'), or None")
        choose("LinearCasts.backward", self.backward, get_args(Backward))
        choose("LinearCasts.way", self.way, get_args(Way))
        self._check_backward()
        if self.backward == "folded":
            self._check_folded()
        if self.saved is not None and not self._keeps_raw_input():
            raise ValueError(
                f"LinearCasts.saved writes the input that backward='original' or 'requantized' keeps, but "
                f"backward={self.backward!r} keeps the codes of {self.output.left}, got saved={self.saved}"
            )
        if self.way == "real":
            self._check_real()

    @property
    def writes(self) -> bool:
        """Whether any tensor is written at all."""
        operands = [operand for name in PRODUCTS for operand in self.operands(name)]
        return self.saved is not None or any(operand.cast is not None for operand in operands)

    @property
    def keeps_codes(self) -> bool:
        """Whether the backward pass is left X in 8 bits or fewer, and nothing else of it."""
        kept = self.saved if self._keeps_raw_input() else self.output.left
        return kept is not None and kept.format.bits <= 8

    def operands(self, product: ProductName) -> tuple[Operand, Operand]:
        """What the product really multiplies: both operands of a @ b.T with the cast each one carries."""
        if product == "output":
            return Operand("X", self.output.left), Operand("W", self.output.right)
        gradient = self.grad_input.left if product == "grad_input" else self.grad_weight.left
        left = Operand("G" if product == "grad_input" else "G^T", gradient)
        tensor, forward = ("W^T", self.output.right) if product == "grad_input" else ("X^T", self.output.left)
        own = self.grad_input.right if product == "grad_input" else self.grad_weight.right
        if self.backward == "requantized":
            return left, Operand(tensor, own)
        if self.backward == "original" or forward is None:
            return left, Operand(tensor, None)
        return left, Operand(tensor, forward, "folded" if self.backward == "folded" else "transposed")

    def way_of(self, product: ProductName) -> tuple[Literal["plain", "emulated", "real"], str]:
        """How the product is computed, and why: ("real", "scales are undone at the output").

        "auto" is real where the codes can be summed and where that is not slower than multiplying the decoded values.
        """
        left, right = self.operands(product)
        unwritten = [o.tensor for o in (left, right) if o.cast is None]
        if len(unwritten) == 2:
            return "plain", "neither operand is written"
        if unwritten:
            return "emulated", f"{unwritten[0]} is unwritten, so the product runs in high precision"
        if self.way == "emulated":
            return "emulated", "the recipe asks for it"
        if problem := pair_problem(left, right, product):
            return "emulated", problem[1]
        a, b = left.as_read(), right.as_read()
        assert a is not None
        assert b is not None
        if self.way == "auto" and (why := slow_reason(a, b)):
            return "emulated", why
        blocks = [c.scale.block for c in (a, b) if c.scale.granularity in ("block", "square")]
        if blocks:
            return "real", f"one partial sum per block of {min(b or 0 for b in blocks)}"
        return "real", "scales are undone at the output"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, casts as text; `from_dict` gives an equal value back."""
        products = {name: getattr(self, name).to_dict() for name in PRODUCTS}
        return {**products, "backward": self.backward, "saved": _text(self.saved), "way": self.way}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LinearCasts":
        """The value `to_dict` described; an unknown field is a ValueError with the nearest right one."""
        check_fields("LinearCasts", values, [f.name for f in fields(cls)])
        known = dict(values)
        for name in PRODUCTS:
            if name in known:
                known[name] = Product.from_dict(known[name])
        if "saved" in known:
            known["saved"] = read_cast("LinearCasts.saved", known["saved"])
        return cls(**known)

    def _keeps_raw_input(self) -> bool:
        return self.output.left is None or self.backward in ("original", "requantized")

    def _check_backward(self) -> None:
        for name in ("grad_input", "grad_weight"):
            right = getattr(self, name).right
            if right is not None and self.backward != "requantized":
                raise ValueError(
                    f"LinearCasts.{name}.right is read only with backward='requantized', "
                    f"got {right} with backward={self.backward!r}"
                )

    def _check_folded(self) -> None:
        pairs = (("W", self.output.right, "grad_input"), ("X", self.output.left, "grad_weight"))
        for tensor, forward, name in pairs:
            if forward is None:
                continue
            if why := unfoldable(forward):
                raise ValueError(
                    f"backward='folded' moves the scales of {tensor} into G, but {tensor} is cast {forward}: {why}; "
                    f"use backward='requantized'"
                )
            if getattr(self, name).left is None:
                raise ValueError(
                    f"backward='folded' moves the scales of {tensor} into G before G is cast, but {name}.left is "
                    f"unwritten; use backward='forward'"
                )

    def _check_real(self) -> None:
        for name in PRODUCTS:
            left, right = self.operands(name)
            if left.cast is None or right.cast is None:
                if name == "output":
                    missing = "X" if left.cast is None else "W"
                    raise ValueError(
                        f"LinearCasts.way='real' multiplies codes, but {missing} of the output is unwritten; "
                        f"cast both operands or use way='auto'"
                    )
                continue
            if problem := pair_problem(left, right, name):
                operand, why = problem
                side = "left" if operand is left else "right"
                raise ValueError(
                    f"LinearCasts.way='real' cannot sum the codes of {name}.{side} ({operand.tensor} cast "
                    f"{operand.cast}): {why}; {WAYS_OUT}"
                )


def kept_between(casts: Sequence[LinearCasts]) -> Literal["slopes", "inputs"] | None:
    """What activation functions between layers of these casts keep for the backward pass: slopes in 8 bits, or inputs.

    None: no layer multiplies codes, and they stay as the model computes them.
    """
    if not any(one.way_of("output")[0] == "real" for one in casts):
        return None
    return "slopes" if all(one.keeps_codes for one in casts) else "inputs"


def unfoldable(forward: Cast) -> str | None:
    """Why the scales of a forward cast cannot move into the gradient; None if they can."""
    if forward.rotation is not None:
        return "its codes are rotated along the forward's summed dimension"
    if forward.scale.granularity not in ("row", "tensor"):
        return f"only row and tensor scales fold, {forward.scale.granularity} scales do not"
    if isinstance(forward.format, Shifted):
        return "its zero points stay inside the sum"
    return None


def _text(value: Cast | None) -> str | None:
    return None if value is None else str(value)


def read_cast(owner: str, text: object) -> Cast | None:
    """The cast that a text names; None for None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{owner} is a cast as text, such as 'int8/row', got {text!r}")
    return cast(text)
