"""Layer: what a converted layer knows beside its parameters, and which of its products compiled operators do."""

from dataclasses import dataclass

from torch import Tensor

from pennyweight.kernels import is_int8_row
from pennyweight.nn.shared import Shared
from pennyweight.numerics import Cast, Stored
from pennyweight.recipes import PRODUCTS, LinearCasts

SLOTS = (
    "output.left",
    "output.right",
    "grad_input.left",
    "grad_input.right",
    "grad_weight.left",
    "grad_weight.right",
    "saved",
)


@dataclass
class Layer:
    """What a converted layer knows beside its parameters: its casts, its name in the noise, what it shares."""

    casts: LinearCasts
    name: str
    shared: Shared
    stored: Stored | None = None  # the weight, where it is its codes and nothing else

    def __post_init__(self) -> None:
        self.real = frozenset(name for name in PRODUCTS if self.casts.way_of(name)[0] == "real")
        slots = {slot: slot_cast(self.casts, slot) for slot in SLOTS}
        self.fused = _fused(self.casts, self.real, stored=self.stored is not None)
        self.drawn = [slot for slot, cast in slots.items() if cast is not None and cast.rounding == "stochastic"]

    def weight(self, weight: Tensor) -> Tensor:
        """The weight [O, I] as the forward pass reads it."""
        if self.stored is not None:
            return self.stored.written.read(weight.dtype)
        cast = self.casts.output.right
        return weight if cast is None else cast(weight, self.keys().get("output.right"))

    def keys(self) -> dict[str, int]:
        """The noise keys of one call, fixed in the forward pass so that a second backward pass draws the same."""
        return {slot: self.shared.counter.key(self.name, slot) for slot in self.drawn}


def slot_cast(casts: LinearCasts, slot: str) -> Cast | None:
    """The cast of a slot by its name, such as "grad_input.left"."""
    product, _, side = slot.partition(".")
    return getattr(getattr(casts, product), side) if side else getattr(casts, product)


def _fused(casts: LinearCasts, real: frozenset[str], *, stored: bool) -> frozenset[str]:
    """What compiled operators do: int8 with one scale a row; gradients folded in the same, or not written at all.

    They write fp32 scales themselves, and read whatever scales a stored weight has, where gradients are folded.
    """
    if "output" not in real or not (is_int8_row(casts.output.left) and (stored or is_int8_row(casts.output.right))):
        return frozenset()
    lefts = (casts.grad_input.left, casts.grad_weight.left)
    if casts.backward == "folded" and {"grad_input", "grad_weight"} <= real and all(map(is_int8_row, lefts)):
        return frozenset({"output", "gradients"})
    if casts.backward == "forward" and lefts == (None, None) and not stored:
        return frozenset({"output", "gradients"})
    return frozenset({"output"})
