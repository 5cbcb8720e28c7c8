"""Compensated rounding loses less of the outputs, on inputs whose channels go together, and nothing else changes."""

import pytest
import torch

from pennyweight.numerics import cast, compensated

CASTS = ("int4/row", "int4/tensor", "int4/block32", "int3/square8", "int4/column", "e2m1/mx", "e2m1/nv", "nf4/block16",
         "int4/row/hadamard32", "int8/row")  # fmt: skip


def weights_and_inputs(seed: int, channels: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels // 4, channels, generator=draw)
    inputs = torch.randn(2000, channels // 4, generator=draw) @ mixed + 0.3 * torch.randn(
        2000, channels, generator=draw
    )
    return torch.randn(24, channels, generator=draw), inputs


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("seed", range(3))
def test_the_outputs_are_nearer_than_those_of_rounding_to_nearest(name: str, seed: int) -> None:
    W, X = weights_and_inputs(seed)
    how = cast(name)
    Q = compensated(W, X.T @ X, how)
    assert ((Q - W) @ X.T).square().mean() < 0.8 * ((how(W) - W) @ X.T).square().mean()


@pytest.mark.parametrize("name", [name for name in CASTS if "hadamard" not in name])
def test_channels_that_do_not_go_together_are_rounded_to_nearest_bit_for_bit(name: str) -> None:
    W, _ = weights_and_inputs(0)
    diagonal = torch.rand(160) + 0.1
    diagonal[7] = 0  # a channel that no input reaches
    assert torch.equal(compensated(W, torch.diag(diagonal), cast(name)), cast(name)(W))


@pytest.mark.parametrize("name", ["int4/row", "int4/block32"])
def test_every_number_is_one_that_the_scales_of_the_tensor_can_say(name: str) -> None:
    W, X = weights_and_inputs(1)
    how = cast(name)
    scales = how.write(W).scale_values().repeat_interleave(32 if "block" in name else 160, dim=1)
    levels = compensated(W, X.T @ X, how) / scales
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert levels.abs().max() <= 7.001


def test_it_refuses_what_is_not_a_scale_times_a_level() -> None:
    W, X = weights_and_inputs(1)
    with pytest.raises(ValueError, match="a scale times a level, got the cast uint4/row"):
        compensated(W, X.T @ X, cast("uint4/row"))
    with pytest.raises(ValueError, match=r"\[160, 160\]"):
        compensated(W, torch.eye(3), cast("int4/row"))
