"""Number formats: which reals a code can stand for, and what a code costs. The union of the final classes, by name.

Every format has `name`, `bits`, `max` (its largest value), `signed`, `has_zero` (small numbers become 0) and `values`,
and three functions, in its own units: `round(y, u)` to the grid, `encode(v)` to codes and `decode(codes)` back.
"""

import re

from pennyweight.numerics.codebooks import CODEBOOKS, Codebook
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.integers import Integer, Shifted
from pennyweight.numerics.minifloats import MINIFLOATS, Minifloat
from pennyweight.spelling import nearest

Format = Integer | Shifted | Minifloat | Codebook | LogRange | Expanded

FORMATS: dict[str, Format] = {
    **{f"int{bits}": Integer(f"int{bits}", bits) for bits in range(2, 9)},
    **{f"uint{bits}": Shifted(f"uint{bits}", bits) for bits in range(2, 9)},
    "ternary": Integer("ternary", 2),
    "mxint8": Integer("mxint8", 8, 1 / 64),
    **MINIFLOATS,
    **CODEBOOKS,
    "log8": LogRange("log8", 8, 40.0),
    "log4": LogRange("log4", 4, 20.0),
    "expand_e4m3": Expanded("expand_e4m3"),
}


def format(name: str) -> Format:
    """The format of that name. Raises ValueError with the nearest right name for any other."""
    if name in FORMATS:
        return FORMATS[name]
    integer = re.fullmatch(r"(u?int)(\d+)", name)
    if integer and integer[2] == "1":
        raise ValueError("an integer format holds 2 to 8 bits, got 1: ask for 'ternary'")
    if integer:
        raise ValueError(f"an integer format holds 2 to 8 bits (2, 3, 4, 5, 6, 7, 8), got {integer[2]}")
    if "fnuz" in name:
        raise ValueError(f"format {name!r}: the float8 'fnuz' variants are not supported; take e4m3 or e5m2")
    raise ValueError(f"no format is called {name!r}{nearest(name, FORMATS)}")
