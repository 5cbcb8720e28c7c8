"""Named recipes: the ones a person asks for by name, each a function that returns a value."""

from dataclasses import replace

from pennyweight.numerics import Cast, cast
from pennyweight.recipes.linear import LinearCasts, Product
from pennyweight.recipes.notation import is_notation, parse, words
from pennyweight.recipes.recipe import Recipe
from pennyweight.recipes.spelling import closest

HIGH_PRECISION_SHARE = 0.15  # last blocks kept from 4 bits; NVFP4 recipe, arXiv:2509.25149


def fp32() -> Recipe:
    """Everything in fp32."""
    return Recipe("fp32", precision="fp32")


def bf16() -> Recipe:
    """bf16 autocast with fp32 master weights and states: the humble baseline."""
    return Recipe("bf16")


def w8a8() -> Recipe:
    """Weights and activations in 8 bits, one scale a row; the gradients are those of the written network."""
    return parse("w8a8")


def w8a8g8() -> Recipe:
    """All three products in 8 bits; the backward pass reuses the forward's codes, their scales folded into G."""
    return parse("w8a8g8")


def m8v8() -> Recipe:
    """bf16 products, both moments of Adam in 8 bits."""
    return parse("m8v8")


def penny8() -> Recipe:
    """All three products, the saved inputs and both moments in 8 bits; fp32 master weights.

    The codes of X made in the forward pass are the saved input: the folded backward reads nothing else of X.
    """
    return replace(parse("w8a8g8m8v8"), name="penny8")


def penny4() -> Recipe:
    """All three products in 4-bit blocks of 32, rotated along the summed dimension; both moments in 4 bits.

    X and W are rounded to nearest, G stochastically in both gradient products. W and X are cast again for the backward
    pass, because blocks and rotations along one dimension are no use along another. The last 15 % of the blocks,
    rounded down, stay in high precision: at least 85 % of the multiply-adds of the blocks are 4-bit.

    Source: Hadamard and stochastic rounding, arXiv:2502.20586; last blocks in bf16, arXiv:2509.25149.
    """
    return replace(parse("w4b32ha4b32hg4b32shm4v4"), name="penny4", last=HIGH_PRECISION_SHARE)


def w2a2_control() -> Recipe:
    """Two bits and one scale per tensor, nearest: what must fail, so that the others' success means something."""
    return replace(parse("w2ta2t"), name="w2a2-control")


def paper_linear(w: str | None = None, a: str | None = None, g: str | None = None) -> LinearCasts:
    """What the published code computes: Y = Q(X) Q(W)^T, dX = G W, dW = Q(G)^T X with W, X and dX's G unwritten.

    `g` is said per row of G [T, O], as the published configurations do; the left operand of dW = G^T X is G^T, so that
    a row of G is a column there, and the other way round.

    Source: Chitsaz et al. 2024, arXiv:2407.11722, and the code published with it.
    """
    turned = {"row": "column", "column": "row"}
    return LinearCasts(
        output=Product(_published(a), _published(w)),
        grad_weight=Product(_published(g and "/".join(turned.get(part, part) for part in g.split("/")), floor="-1e-9")),
        backward="original",
        way="emulated",
    )


PAPER: dict[str, dict[str, str]] = {
    "paper-w8": {"w": "int8/row"},
    "paper-w8t": {"w": "int8/tensor"},
    "paper-w4": {"w": "int4/row"},
    "paper-w4t": {"w": "int4/tensor"},
    "paper-a8": {"a": "int8/row"},
    "paper-a8t": {"a": "int8/tensor"},
    "paper-a4": {"a": "int4/row"},
    "paper-a4c": {"a": "int4/column"},
    "paper-a4t": {"a": "int4/tensor"},
    "paper-g8": {"g": "int8/row"},
    "paper-g8t": {"g": "int8/tensor"},
    "paper-g4": {"g": "int4/row"},
    "paper-w8a8": {"w": "int8/row", "a": "int8/row"},
    "paper-w8a8g8": {"w": "int8/row", "a": "int8/row", "g": "int8/row"},
}
PAPER_STATES = {
    "paper-m8": {"m": "int8/row"},
    "paper-m8t": {"m": "int8/tensor"},
    "paper-m4": {"m": "int4/row"},
    "paper-v8": {"v": "int8/row-with-zero"},
}


def paper(name: str) -> Recipe:
    """A recipe of the published study, computed as its code does: all linear layers, the head included."""
    if name in PAPER:
        return Recipe(name, paper_linear(**PAPER[name]), head=True)
    return Recipe(name, **PAPER_STATES[name], states="linear", state_rounding="nearest")


OWN = {
    "fp32": fp32,
    "bf16": bf16,
    "w8a8": w8a8,
    "w8a8g8": w8a8g8,
    "m8v8": m8v8,
    "penny8": penny8,
    "penny4": penny4,
    "w2a2-control": w2a2_control,
}


def names() -> list[str]:
    """The named recipes, our own first."""
    return [*OWN, *PAPER, *PAPER_STATES]


def recipe(text: str | Recipe) -> Recipe:
    """A recipe by name ("penny8") or by notation ("w4ca8tg8m8v8"); a recipe is returned as it is.

    ValueError in one sentence, with the nearest right name, for a word that is neither.
    """
    if isinstance(text, Recipe):
        return text
    if not isinstance(text, str):
        raise TypeError(f"A recipe is asked for by name or notation, got {type(text).__name__}")
    word = text.strip().lower()
    if word in OWN:
        return OWN[word]()
    if word in PAPER or word in PAPER_STATES:
        return paper(word)
    if is_notation(word):
        try:
            return parse(word)
        except ValueError as wrong:
            close = closest(word, names())
            raise ValueError(f"{wrong}" + (f"; or is it the recipe {close!r}?" if close else "")) from None
    close = closest(word, names()) or closest(word, words())
    hint = f"did you mean {close!r}?" if close else f"there are {', '.join(names())}, and notation such as w4ca8tg8m8v8"
    raise ValueError(f"No recipe is called {text!r}; {hint}")


def _published(text: str | None, floor: str = "") -> Cast | None:
    return None if text is None else cast(f"{text}/published{floor}")
