"""Rewriting: a stored state in another code, when a checkpoint was written with other bits than the optimizer's."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pennyweight.optim.moments import PLAIN, VERSION, Moment
from pennyweight.optim.notation import moment

logger = logging.getLogger(__name__)
TORCH = {"exp_avg": "m", "exp_avg_sq": "v"}  # torch.optim.AdamW's names of the averages


def rewritten(
    stored: Mapping[str, Any],
    header: Mapping[str, Any],
    parameter: Tensor,
    wanted: Mapping[str, Moment],
    *,
    dtype: torch.dtype,
    strict: bool = False,
    level: int = logging.WARNING,
) -> dict[str, Tensor]:
    """A copy of a parameter's state, on its device, with m and v as `wanted` writes them (nearest where that converts).

    A line is logged at `level` for what is converted.
    Raises ValueError when the state is of another parameter or version, or, if `strict`, of another code.
    """
    stored = {TORCH.get(name, name): value for name, value in stored.items()}
    step = torch.as_tensor(stored["step"], dtype=torch.float32).detach().clone().cpu()
    result = {"step": step}
    for slot, target in wanted.items():
        source = _source(slot, stored, header)
        parts = {n: t.detach().to(parameter.device) for n, t in stored.items() if n.split(".")[0] == slot}
        _check_size(slot, parts, source, parameter)
        kind = PLAIN[target.text] if target.plain and target.written else dtype
        same = parts[slot].dtype == kind if source.plain and target.plain else source.header == target.header
        if same:
            result |= {name: tensor.clone() for name, tensor in parts.items()}
            continue
        change = f"{slot} is stored as {source.text} and wanted as {kind if target.plain else target.text}"
        if strict:
            raise ValueError(f"AdamW refuses to convert a state with strict=True: {change}")
        logger.log(level, "AdamW converts a state: %s", change)
        values = source.read(slot, parts, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape)
        result |= target.nearest().stored(slot, values.to(kind if target.plain else torch.float32))
    return result


def _source(slot: str, stored: Mapping[str, Tensor], header: Mapping[str, Any]) -> Moment:
    if slot in stored:
        return Moment({torch.bfloat16: "bf16", torch.float16: "fp16"}.get(stored[slot].dtype, "fp32"))
    if slot not in header:
        raise ValueError(f"AdamW finds no {slot} in the state it loads; it holds {', '.join(stored)}")
    if header[slot]["version"] != VERSION:
        raise ValueError(f"AdamW reads states of version {VERSION}, got version {header[slot]['version']} of {slot}")
    return moment(header[slot]["cast"], "m" if header[slot]["signed"] else "v", "nearest", zero=True)


def _check_size(slot: str, parts: Mapping[str, Tensor], source: Moment, parameter: Tensor) -> None:
    held = sum(tensor.numel() * tensor.element_size() for tensor in parts.values())
    if source.plain and held != parameter.numel() * parts[slot].element_size():
        raise ValueError(
            f"AdamW's {slot} belongs to a parameter of {parts[slot].numel()} elements, not {parameter.numel()}"
        )
    if not source.plain and held != source.bytes(tuple(parameter.shape)):
        raise ValueError(
            f"AdamW's {slot} of {held} bytes does not belong to a parameter of shape {tuple(parameter.shape)}"
        )
