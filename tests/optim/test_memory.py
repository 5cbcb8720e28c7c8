"""Bytes of the moments: predicted, measured, and what the table of layouts says."""

import pytest
import torch
from torch import nn

from pennyweight.optim import AdamW, predicted_state_bytes, state_bytes

WRITTEN = [("int8", "log8"), ("dynamic_sym4", "log4"), ("dynamic8", "sqrt_nz8"), ("bf16", "bf16")]


@pytest.mark.parametrize(
    ("m", "v"), [("fp32", "fp32"), *WRITTEN, ("expand_e4m3", "expand_e4m3"), ("int8/row", "int8/tensor-with-zero")]
)
def test_predicted_bytes_are_the_bytes(parameters, walk, m: str, v: str) -> None:
    params = parameters()
    a = AdamW(params, m=m, v=v)
    walk(a, params, range(1))
    assert predicted_state_bytes([tuple(p.shape) for p in params], m, v) == state_bytes(a)


@pytest.mark.parametrize(
    ("m", "v", "each"),
    [
        ("dynamic8", "sqrt_nz8", 2 * 1.0156),
        ("dynamic8", "log8", 1.0156 + 1.0312),
        ("dynamic_sym4", "linear_nz4", 2 * 0.5312),
        ("dynamic_sym4", "log4", 0.5312 + 0.5625),
        ("expand_e4m3", "expand_e4m3", 2 * 1.0625),  # two floats a block; COAT keeps a third that cancels
    ],
)
def test_states_cost_what_the_table_says(m: str, v: str, each: float) -> None:
    weight = nn.Parameter(torch.randn(1024, 1024))
    a = AdamW([weight], m=m, v=v)
    weight.grad = torch.randn(1024, 1024)
    a.step()
    assert state_bytes(a) == pytest.approx(each * 2**20, rel=0.01)
