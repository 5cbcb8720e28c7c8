"""Notation: a cast as a short text, `int8/row`, `int4/block32/stochastic/hadamard32`, `e2m1/nv`.

The way back is `str(cast)`.
"""

import re
from dataclasses import replace
from typing import get_args

from pennyweight.numerics.casts import Cast
from pennyweight.numerics.formats import format
from pennyweight.numerics.rotation import Hadamard
from pennyweight.numerics.scales import MX_BLOCK, NV_BLOCK, PUBLISHED_FLOOR, Granularity
from pennyweight.numerics.usual import usual_scale
from pennyweight.spelling import nearest

_WORDS = (
    *("tensor", "row", "column", "block32", "square32", "mx", "mx-floor", "mx-even", "mx-ceil", "mx-rceil"),
    *("nv", "nv-up", "nv-nearest", "fp32", "pow2", "e8m0", "e4m3", "unit", "stochastic", "nearest", "hadamard32"),
    *("published", "published-1e-9", "floor-1e-9"),
)


def cast(text: str) -> Cast:
    """The cast that a text like `int8/row`, `e4m3/mx-rceil` or `int4/block32/stochastic/hadamard32` names.

    The first word is the format; the others, in any order: tensor, row, column, blockN, squareN; mx[-mode], nv[-mode];
    fp32, pow2, e8m0[-mode], e4m3[-mode], unit (how the scale is written); stochastic; hadamardN; floor-NUMBER;
    published[-NUMBER].
    Raises ValueError, with the nearest right word, for any other.
    """
    name, *words = text.split("/")
    element = format(name)
    scale = usual_scale(element)
    rounding, rotation = "nearest", None
    for word in words:
        head, _, tail = word.partition("-")
        sized = re.fullmatch(r"(block|square|hadamard)(\d+)", word)
        if word in ("stochastic", "nearest"):
            rounding = word
        elif sized and sized[1] == "hadamard":
            rotation = Hadamard(int(sized[2]))
        elif sized:
            scale = replace(scale, granularity=sized[1], block=int(sized[2]))
        elif word in get_args(Granularity)[:3]:
            scale = replace(scale, granularity=word, block=None)
        elif head in ("mx", "nv"):
            block, number = (MX_BLOCK, "e8m0") if head == "mx" else (NV_BLOCK, "e4m3")
            scale = replace(scale, granularity="block", block=block, number=number, mode=tail or None)
        elif word in ("fp32", "pow2", "unit"):
            scale = replace(scale, number="one" if word == "unit" else word)
        elif head in ("e8m0", "e4m3"):
            scale = replace(scale, number=head, mode=tail or None)
        elif head == "published":
            scale = replace(scale, arithmetic="given", floor=_number(tail, head, text) if tail else PUBLISHED_FLOOR)
        elif head == "floor":
            scale = replace(scale, floor=_number(tail, head, text))
        else:
            raise ValueError(f"the cast {text!r} has no word {word!r}{nearest(word, _WORDS)}")
    return Cast(element, scale, rounding, rotation)


def _number(text: str, word: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the cast {whole!r} wants a number after '{word}-', got {text!r}") from None
