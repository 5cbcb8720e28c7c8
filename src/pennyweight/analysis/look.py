"""Look: what was seen of a model at one step, as a value: one line of the ledger, one column of a heat map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# measure -> (what it is, which way is worse: -1 lower, +1 higher, 0 away from 0)
_TENSOR = {
    "db": ("decibels left", -1),
    "bias": ("signed bias", 0),
    "saturated": ("share beyond the largest code", 1),
    "zero": ("share that became 0", 1),
    "codes": ("distinct codes used", -1),
}
_TENSORS = {
    "x": "input",
    "w": "weight",
    "g": "output gradient, in grad_input",
    "gt": "output gradient, in grad_weight",
    "m": "moment m",
    "v": "moment v",
}
MEASURES: dict[str, tuple[str, int]] = {
    **{
        f"{tensor}.{name}": (f"{what}: {said}", worse)
        for tensor, what in _TENSORS.items()
        for name, (said, worse) in _TENSOR.items()
    },
    **{
        f"{product}.{name}": (f"product {product}: {_TENSOR[name][0]}", _TENSOR[name][1])
        for product in ("output", "grad_input", "grad_weight")
        for name in ("db", "bias")
    },
    "x.kurtosis": ("input: kurtosis of its channels", 1),
    "w.swallowed": ("weight: share of its updates below half a step", 1),
    "w.image_kept": ("weight: share of its updates that leave the written weight as it is", 1),
    "m.stalled": ("moment m: share that cannot move", 1),
    "v.stalled": ("moment v: share that cannot move", 1),
    "gradient.cosine": ("weight gradient: cosine with full precision", -1),
    "gradient.norm_ratio": ("weight gradient: norm over that of full precision", 0),
}  # fmt: skip
DIGITS = 4  # that a number of a look keeps in the ledger


def short(number: float | None, measure: str = "") -> float | None:
    """The number with DIGITS significant digits; None for what is no number, and infinite decibels as 999.

    A cosine keeps six decimals: what is left of 1 is what it says.
    """
    if number is None or math.isnan(number):
        return None
    if math.isinf(number):
        return math.copysign(999.0, number)
    return round(number, 6) if measure.endswith("cosine") else float(f"{number:.{DIGITS}g}")


@dataclass(frozen=True)
class Look:
    """What was seen after `step` steps.

    measures:  layer -> measure -> number, the measures of `MEASURES`; what a recipe leaves unwritten has none
    top:       layer -> its input's channels that stand out, (channel, rms over the rms of the input)
    sharpness: what `analysis.sharpness` says, where it was asked for; else empty
    seconds:   that looking took, sharpness left out; sharpness_seconds: that it took
    recipe:    the name of the one recipe by which the model was converted then
    """

    step: int
    measures: Mapping[str, Mapping[str, float | None]]
    top: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    sharpness: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    sharpness_seconds: float = 0.0
    recipe: str = ""

    def to_line(self) -> dict[str, Any]:
        """The look as a line of the ledger holds it: measure -> one number a layer, in the order of `layers`."""
        layers = list(self.measures)
        order = {name: place for place, name in enumerate(MEASURES)}
        names = sorted({name for found in self.measures.values() for name in found}, key=order.__getitem__)
        columns = {name: [short(self.measures[layer].get(name), name) for layer in layers] for name in names}
        top = {layer: [[channel, short(ratio)] for channel, ratio in found] for layer, found in self.top.items()}
        line = {"recipe": self.recipe, "layers": layers, "measures": columns, "top": top}
        line["seconds"] = round(self.seconds, 4)
        if self.sharpness:
            line |= {"sharpness": dict(self.sharpness), "sharpness_seconds": round(self.sharpness_seconds, 4)}
        return line

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Look":
        """The look that a line of the ledger, of kind "diagnosis", holds."""
        measures: dict[str, dict[str, float | None]] = {layer: {} for layer in line["layers"]}
        for name, column in line["measures"].items():
            for layer, number in zip(line["layers"], column, strict=True):
                if number is not None:
                    measures[layer][name] = number
        top = {layer: [(int(c), float(r)) for c, r in found] for layer, found in line.get("top", {}).items()}
        sharp = line.get("sharpness", {}), line["seconds"], line.get("sharpness_seconds", 0.0)
        return cls(line["step"], measures, top, *sharp, line.get("recipe", ""))
