"""States: which cast the words "int8", "log8/block256" or "udynamic8-with-zero" mean for Adam's m and v."""

from dataclasses import replace
from functools import lru_cache

from pennyweight.numerics import Cast, Rounding, Shifted, cast, format, usual_block

PLAIN = ("fp32", "bf16", "fp16")  # stored as torch stores them
WITH_ZERO = "-with-zero"  # what a person adds to a code with a zero to take it for v all the same
FEWEST_WRITTEN = 4096  # elements; moments of smaller tensors stay fp32, as in bitsandbytes: they cost nothing
PAPER_FLOOR = 1e-8  # of state scales in the published code of arXiv:2407.11722, which knows tensors and rows only


@lru_cache
def state_cast(
    text: str, slot: str = "m", rounding: Rounding = "stochastic", *, zero: bool = False
) -> tuple[str, Cast | None]:
    """The name and the cast of the storage that `text` means for m or v; no cast for "fp32".

    text: "fp32", "bf16", "fp16", or a cast: FORMAT, FORMAT/blockN, FORMAT/row, FORMAT/tensor, each perhaps with
          /nearest or /stochastic (else `rounding`). Blocks run along the flattened parameter; usual are 128 (integers,
          and codes below 8 bits) and 256. Integers with row or tensor scales are the paper's: its scale floor 1e-8.
    zero: takes a code with a zero for v without its suffix: for reading what is already stored.
    Raises ValueError for an unknown name, for v in a code with a zero that does not say -with-zero, and for m in a code
    without a sign.
    """
    name = text.replace(WITH_ZERO, "")
    for word in ("nearest", "stochastic"):
        if name.endswith(f"/{word}"):
            name, rounding = name.removesuffix(f"/{word}"), word
    if name == "fp32":
        return name, None
    if name in PLAIN:
        found = cast(name) if rounding == "nearest" else replace(cast(name), rounding="stochastic")
    else:
        name = name if "/" in name else f"{name}/block{usual_block(format(name))}"
        found = _grouped(name, rounding)
    code = found.format
    if slot == "m" and not (code.signed or isinstance(code, Shifted)):
        raise ValueError(f"AdamW's m has a sign and {code.name} has none; take 'int8' or 'dynamic_sym4'")
    if slot == "v" and code.has_zero and code.name != "bf16" and WITH_ZERO not in text and not zero:
        raise ValueError(_zero_message(text, found))
    return name, found


def _grouped(name: str, rounding: Rounding) -> Cast:
    found = replace(cast(name), rounding=rounding)
    scale = found.scale
    if scale.granularity not in ("block", "row", "tensor") or found.rotation is not None:
        raise ValueError(f"AdamW's moments are written per block, row or tensor and not rotated, got {name!r}")
    if scale.number not in ("fp32", "pow2", "e8m0"):
        raise ValueError(f"AdamW's moments have scales of their own group (fp32, pow2 or e8m0), got {name!r}")
    if scale.granularity != "block" and name.startswith("int"):
        return replace(found, scale=replace(scale, floor=PAPER_FLOOR))
    return found


def _zero_message(name: str, written: Cast) -> str:
    positive = [value for value in written.format.values if value > 0]
    theta = positive[0] / 2 / written.format.max
    return (
        f"AdamW's v in {name} would store as 0 all below theta = {theta:.1e} of its group's maximum, and Adam's bound "
        "on the step, |m|/sqrt(v) <= (1-b1)/sqrt((1-b2)(1-b1^2/b2)), would be lost: one such element destroys the run; "
        f"take v='log8' or 'log4', which have no zero, or say {name + WITH_ZERO!r} to study it"
    )
