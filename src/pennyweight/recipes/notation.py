"""Notation: recipes as one short word, w4ca8tg8m8v8, in which each letter names a tensor and each suffix says how.

    w weights   a activations   g gradients (both gradient products)   m, v moments of Adam
    k what is kept for the backward pass beside the inputs of linear layers
    8           bits (an integer), or a format by name: we4m3, wnf4, ae2m1
    c t bN qN   one scale per column, per tensor, per block of N, per square of N; without: one per row
    mx nv       blocks of 32 with power-of-two scales, blocks of 16 with e4m3 scales
    s h         stochastic rounding, Hadamard rotation of 32 along the summed dimension

All are relative to the operand as it stands in a @ b.T, so that a row always runs along the summed dimension: g8 is
one scale per token in dX = G W and one per out channel in dW = G^T X. w4c and a4c have one scale per in channel, which
Y = X W^T can only emulate. h on g rotates both operands of both gradient
products. m8 = int8/block128, v8 = log8/block256, m4 = dynamic_sym4/block128, v4 = log4/block128.
"""

import re
from dataclasses import dataclass, replace

from pennyweight.numerics import Cast, cast
from pennyweight.recipes.linear import Backward, LinearCasts, Product, unfoldable
from pennyweight.recipes.recipe import Recipe
from pennyweight.spelling import nearest

LETTERS = {
    "w": "weights",
    "a": "activations",
    "g": "gradients",
    "m": "first moment",
    "v": "second moment",
    "k": "what is kept for the backward pass",
}
FORMATS = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "nf4", "ternary", "mxint8")
STATE_FORMATS = (*FORMATS, "dynamic8", "dynamic4", "dynamic_sym8", "dynamic_sym4", "log8", "log4")
STATES = {
    "m": {"8": "int8/block128", "4": "dynamic_sym4/block128"},
    "v": {"8": "log8/block256", "4": "log4/block128"},
}
SUFFIXES = r"(?P<suffixes>(?:mx|nv|[ctsh]|[bq]\d+)*)"
TOKEN = re.compile(rf"(?P<letter>[wagmvk])(?P<written>\d+|{'|'.join(sorted(STATE_FORMATS, key=len)[::-1])}){SUFFIXES}")
SUFFIX = re.compile(r"mx|nv|[ctsh]|[bq]\d+")


@dataclass(frozen=True)
class Token:
    """One letter of the notation with its bits or format and its suffixes."""

    letter: str
    written: str
    suffixes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.letter + self.written + "".join(self.suffixes)

    def cast(self) -> Cast:
        """The cast of an operand; ValueError where the letter or a suffix does not fit."""
        name = self._integer() if self.written.isdigit() else self.written
        scales = [s for s in self.suffixes if s not in "sh"]
        parts = [name, *(self._scale(s) for s in scales or ["row"])]
        parts += ["stochastic"] * ("s" in self.suffixes) + ["hadamard32"] * ("h" in self.suffixes)
        return cast("/".join(parts))

    def state(self) -> str:
        """The state notation of a moment, as the optimizer reads it."""
        if bad := [s for s in self.suffixes if s in ("c", "s", "h", "mx", "nv") or s[0] == "q"]:
            raise ValueError(f"Notation {self}: a moment of Adam takes the suffixes t and bN, got {bad[0]!r}")
        if self.written.isdigit():
            self._integer()
            if self.written not in STATES[self.letter]:
                raise ValueError(
                    f"Notation {self}: {self.letter} is written in 8 or 4 bits or a named format, "
                    f"got {self.written}; did you mean '{self.letter}{'8' if int(self.written) > 5 else '4'}'?"
                )
            default = STATES[self.letter][self.written]
        else:
            default = self.written  # the optimizer knows the usual blocks of each format
        if not self.suffixes:
            return default
        return f"{default.partition('/')[0]}/{self._scale(self.suffixes[0])}"

    def _integer(self) -> str:
        if not 2 <= int(self.written) <= 8:
            hint = "; one bit and a half is 'ternary'" if int(self.written) == 1 else ""
            raise ValueError(f"Notation {self}: an integer has 2 to 8 bits, got {self.written}{hint}")
        return f"int{int(self.written)}"

    def _scale(self, suffix: str) -> str:
        if suffix in ("mx", "nv"):
            return suffix
        if suffix[0] in "bq":
            if int(suffix[1:]) < 1:
                raise ValueError(f"Notation {self}: a block holds at least one element, got {suffix[1:]}")
            return f"{'block' if suffix[0] == 'b' else 'square'}{int(suffix[1:])}"
        return {"c": "column", "t": "tensor", "row": "row"}[suffix]


def words() -> list[str]:
    """Every word of one token without suffixes, to compare a misspelt one with."""
    bits = [str(number) for number in range(2, 9)]
    operands = [letter + written for letter in "wagk" for written in (*bits, *FORMATS)]
    return operands + [letter + written for letter in "mv" for written in ("8", "4", *STATE_FORMATS)]


def is_notation(text: str) -> bool:
    """Whether the word begins like notation: a letter followed by bits or a format."""
    return TOKEN.match(text) is not None


def parse(text: str) -> Recipe:
    """The recipe of a word of the notation; its name is the word with its tokens in the order w a g m v k.

    The backward pass reads the forward's codes: "folded" where G is written and the scales can fold, "forward" where G
    is unwritten or the scales are legal as they are (squares), "requantized" where folding is not defined.
    """
    tokens = {t.letter: t for t in tokenize(text)}
    written = {letter: tokens[letter].cast() for letter in "wag" if letter in tokens}
    m, v = (tokens[letter].state() if letter in tokens else "fp32" for letter in "mv")
    name = "".join(str(tokens[letter]) for letter in LETTERS if letter in tokens)
    linear = linear_casts(written.get("w"), written.get("a"), written.get("g")) if written else None
    return Recipe(name, linear, m=m, v=v, saved=tokens["k"].cast() if "k" in tokens else None)


def linear_casts(weights: Cast | None, activations: Cast | None, gradients: Cast | None) -> LinearCasts:
    """The six casts of w, a and g, with the backward operands that are usual for them."""
    output = Product(activations, weights)
    backward = usual_backward(weights, activations, gradients)
    again = Product(), Product()
    if backward == "requantized":
        assert gradients is not None
        again = tuple(Product(None, forward and turned(forward, gradients)) for forward in (weights, activations))
    return LinearCasts(
        output,
        grad_input=replace(again[0], left=gradients),
        grad_weight=replace(again[1], left=gradients),
        backward=backward,
    )


def turned(forward: Cast, gradients: Cast) -> Cast:
    """How W or X is cast again in a gradient product: as in the forward, along the dimension now summed, and turned
    like G. One scale per in channel (a column before) and one per row before are both one per row there.
    """
    scale = forward.scale
    if scale.granularity == "column":
        scale = replace(scale, granularity="row")
    return replace(forward, scale=scale, rotation=gradients.rotation)


def usual_backward(weights: Cast | None, activations: Cast | None, gradients: Cast | None) -> Backward:
    """What the gradient products read if nothing else is asked for."""
    if gradients is None:
        return "forward"
    forward = [c for c in (weights, activations) if c is not None]
    if gradients.rotation is None and not any(unfoldable(c) for c in forward):
        return "folded"
    square = all(c.scale.granularity == "square" and c.rotation is None for c in (*forward, gradients))
    return "forward" if square else "requantized"


def tokenize(text: str) -> list[Token]:
    """The tokens of a word; ValueError names what cannot be read and the nearest thing that can."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"Notation {text!r} cannot be read from {text[at:]!r} on{_hint(text[at:])}")
        suffixes = tuple(SUFFIX.findall(match["suffixes"]))
        written = str(int(match["written"])) if match["written"].isdigit() else match["written"]
        token = Token(match["letter"], written, _ordered(match[0], suffixes))
        if token.letter in (t.letter for t in tokens):
            raise ValueError(f"Notation {text!r} says {token.letter} ({LETTERS[token.letter]}) twice")
        tokens.append(token)
        at = match.end()
    return tokens


def _ordered(token: str, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    scales = [s for s in suffixes if s not in ("s", "h")]
    if len(scales) > 1 or len(set(suffixes)) < len(suffixes):
        raise ValueError(f"Notation {token}: one granularity and each of s and h once, got {' '.join(suffixes)}")
    return (*scales, *(s for s in ("s", "h") if s in suffixes))


def _hint(rest: str) -> str:
    if rest[0] not in LETTERS:
        suffixes = "suffixes are c t bN qN mx nv s h"
        return f"; letters are {', '.join(f'{letter} ({what})' for letter, what in LETTERS.items())}, {suffixes}"
    return "; after " + repr(rest[0]) + " come bits or a format" + nearest(rest[1:], STATE_FORMATS)
