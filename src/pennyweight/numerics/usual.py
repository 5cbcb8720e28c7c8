"""Usual: the scale a format has when none is named, and the block its codes run in along a flat tensor."""

from pennyweight.numerics.codebooks import Codebook
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.formats import Format
from pennyweight.numerics.integers import Integer, Shifted
from pennyweight.numerics.layout import is_native
from pennyweight.numerics.minifloats import LARGEST_BITS
from pennyweight.numerics.scales import MX_BLOCK, Scale

_NAMED = {  # where the paper of a format says it
    "nf4": Scale("block", 64),  # arXiv:2305.14314
    "ternary": Scale("tensor"),  # arXiv:2402.17764
    "mxint8": Scale("block", MX_BLOCK, "e8m0"),  # OCP Microscaling v1.0
}


def usual_scale(element: Format) -> Scale:
    """One scale a row, blocks for the codes of moments, what its paper says, none for torch's own dtypes."""
    if is_native(element):
        return Scale("tensor", number="one")
    if element.name in _NAMED:
        return _NAMED[element.name]
    if isinstance(element, Codebook | LogRange | Expanded):
        return Scale("block", usual_block(element))
    return Scale("row")


def usual_block(element: Format) -> int:
    """Numbers that share a scale in a moment: 256 in 8-bit codes; 128 in integers, expand_e4m3 and all of fewer bits.

    Source: Dettmers et al., arXiv:2110.02861 (256); Li et al., arXiv:2309.01507 (128); Xi et al., arXiv:2410.19313.
    """
    small = element.bits < LARGEST_BITS or isinstance(element, Integer | Shifted | Expanded)
    return 128 if small else 256
