"""Named recipes: the ones a person asks for by name, each a function that returns a value."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pennyweight.numerics import Cast, cast
from pennyweight.recipes.linear import LinearCasts, Product
from pennyweight.recipes.notation import is_notation, parse, words
from pennyweight.recipes.recipe import Recipe
from pennyweight.spelling import closest

# what formats are called elsewhere, and the notation for them; longer names first
ELSEWHERE = {
    "mxfp8": "e4m3mx", "mxfp6": "e3m2mx", "mxfp4": "e2m1mx", "nvfp4": "e2m1nv", "int8": "8", "int4": "4",
    "fp8": "e4m3", "fp6": "e3m2", "fp4": "e2m1",
}  # fmt: skip
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
    return parse("w8a8g8m8v8")


def penny8k8() -> Recipe:
    """penny8 that also keeps in 8 bits what norms, attention and the other functions save: memory for a little time."""
    return parse("w8a8g8m8v8k8")


def penny8_nomaster() -> Recipe:
    """penny8 whose linear weights are int8 codes without a master copy, rounded stochastically after each update.

    Their scales are powers of two: a scale that moves a little with every update would have the whole row rounded
    again, which adds noise to weights that did not move.
    """
    made, stored = penny8(), cast("int8/row/pow2")
    assert made.linear is not None
    linear = replace(made.linear, output=replace(made.linear.output, right=stored))
    return replace(made, linear=linear, weights=stored)


def penny4() -> Recipe:
    """All three products in 4-bit blocks of 32, rotated along the summed dimension; both moments in 4 bits.

    X and W are rounded to nearest, G stochastically in both gradient products. W and X are cast again for the backward
    pass, because blocks and rotations along one dimension are no use along another. The last 15 % of the blocks,
    rounded down, stay in high precision: at least 85 % of the multiply-adds of the blocks are 4-bit.

    Source: Hadamard and stochastic rounding, arXiv:2502.20586; last blocks in bf16, arXiv:2509.25149.
    """
    return replace(parse("w4b32ha4b32hg4b32shm4v4"), last=HIGH_PRECISION_SHARE)


def w2a2_control() -> Recipe:
    """Two bits and one scale per tensor, nearest: what must fail, so that the others' success means something."""
    return parse("w2ta2t")


def paper(
    *,
    w: str | None = None,
    a: str | None = None,
    g: str | None = None,
    m: str = "fp32",
    v: str = "fp32",
) -> Recipe:
    """A recipe of the published study, computed as its code does, in all linear layers, the head included.

        Y = Q_A(X) Q_W(W)^T,   dX = G W,   dW = Q_G(G)^T X,   m and v of the linear weights rounded to nearest

    Scales are computed in the dtype of the tensor, with floors of 1e-5 (W, X) and 1e-9 (G). `g` is said per row of
    G [T, O], as the published configurations do; the left operand of dW is G^T, so that a row of G is a column there.

    Source: Chitsaz et al. 2024, arXiv:2407.11722, and the code published with it.
    """
    turned = {"int8/row": "int8/column", "int4/row": "int4/column"}
    linear = LinearCasts(
        output=Product(_published(a), _published(w)),
        grad_weight=Product(_published(g and turned.get(g, g), floor="-1e-9")),
        backward="original",
        way="emulated",
    )
    made = Recipe("paper", linear, head=True, m=m, v=v)
    return made if m == v == "fp32" else replace(made, states="linear", state_rounding="nearest")


NAMED: dict[str, Callable[[], Recipe]] = {
    "fp32": fp32,
    "bf16": bf16,
    "w8a8": w8a8,
    "w8a8g8": w8a8g8,
    "m8v8": m8v8,
    "penny8": penny8,
    "penny8k8": penny8k8,
    "penny8-nomaster": penny8_nomaster,
    "penny4": penny4,
    "w2a2-control": w2a2_control,
    "paper-w8": partial(paper, w="int8/row"),
    "paper-w8t": partial(paper, w="int8/tensor"),
    "paper-w4": partial(paper, w="int4/row"),
    "paper-w4t": partial(paper, w="int4/tensor"),
    "paper-a8": partial(paper, a="int8/row"),
    "paper-a8t": partial(paper, a="int8/tensor"),
    "paper-a4": partial(paper, a="int4/row"),
    "paper-a4c": partial(paper, a="int4/column"),
    "paper-a4t": partial(paper, a="int4/tensor"),
    "paper-g8": partial(paper, g="int8/row"),
    "paper-g8t": partial(paper, g="int8/tensor"),
    "paper-g4": partial(paper, g="int4/row"),
    "paper-m8": partial(paper, m="int8/row"),
    "paper-m8t": partial(paper, m="int8/tensor"),
    "paper-m4": partial(paper, m="int4/row"),
    "paper-v8": partial(paper, v="int8/row-with-zero"),
    "paper-w8a8": partial(paper, w="int8/row", a="int8/row"),
    "paper-w8a8g8": partial(paper, w="int8/row", a="int8/row", g="int8/row"),
}


def names() -> list[str]:
    """The named recipes, our own first."""
    return list(NAMED)


def recipe(text: str | Recipe) -> Recipe:
    """A recipe by name ("penny8") or by notation ("w4ca8tg8m8v8"); a recipe is returned as it is.

    ValueError in one sentence, with the nearest right name, for a word that is neither.
    """
    if isinstance(text, Recipe):
        return text
    if not isinstance(text, str):
        raise TypeError(f"A recipe is asked for by name or notation, got {type(text).__name__}")
    word = text.strip().lower()
    if word in NAMED:
        return replace(NAMED[word](), name=word)
    if (meant := _in_our_words(word)) is not None:
        raise ValueError(f"No recipe is called {text!r}; did you mean {meant!r}?")
    if is_notation(word):
        try:
            return parse(word)
        except ValueError as wrong:
            close = closest(word, names())
            raise ValueError(f"{wrong}" + (f"; or is it the recipe {close!r}?" if close else "")) from None
    close = closest(word, names()) or closest(word, words())
    hint = f"did you mean {close!r}?" if close else f"there are {', '.join(names())}, and notation such as w4ca8tg8m8v8"
    raise ValueError(f"No recipe is called {text!r}; {hint}")


def _in_our_words(word: str) -> str | None:
    """The notation that a word with the formats' names of elsewhere means: wmxfp4 -> we2m1mx; None for other words."""
    meant = re.sub("|".join(ELSEWHERE), lambda found: ELSEWHERE[found[0]], word)
    if meant == word or not is_notation(meant):
        return None
    try:
        return str(parse(meant))
    except ValueError:
        return None


def _published(text: str | None, floor: str = "") -> Cast | None:
    return None if text is None else cast(f"{text}/published{floor}")
