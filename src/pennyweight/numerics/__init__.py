"""How a number is written: formats, rounding, scales, rotations, casts, packing, fidelity."""

from pennyweight.numerics.casts import Cast, Quantized
from pennyweight.numerics.clipping import CLIPPINGS, clipped
from pennyweight.numerics.codebooks import Codebook
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.compensation import compensated
from pennyweight.numerics.fidelity import Fidelity, fidelity
from pennyweight.numerics.formats import Format, format
from pennyweight.numerics.integers import Integer, Shifted
from pennyweight.numerics.minifloats import Minifloat
from pennyweight.numerics.noise import Counter, halves, key, uniform
from pennyweight.numerics.notation import cast
from pennyweight.numerics.packing import pack, unpack
from pennyweight.numerics.rotation import Hadamard
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.scales import Scale
from pennyweight.numerics.stored import Stored, held_bytes, stored_of
from pennyweight.numerics.usual import usual_block

__all__ = [
    "CLIPPINGS",
    "Cast",
    "Codebook",
    "Counter",
    "Expanded",
    "Fidelity",
    "Format",
    "Hadamard",
    "Integer",
    "LogRange",
    "Minifloat",
    "Quantized",
    "Rounding",
    "Scale",
    "Shifted",
    "Stored",
    "cast",
    "clipped",
    "compensated",
    "fidelity",
    "format",
    "halves",
    "held_bytes",
    "key",
    "pack",
    "stored_of",
    "uniform",
    "unpack",
    "usual_block",
]
