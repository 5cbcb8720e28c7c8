"""What a step moved: numbers by hand, and the optimizer's own states."""

import math

import pytest
import torch

from pennyweight.analysis.passes import Lens
from pennyweight.analysis.updates import Update, half_steps, moved, stretches, swallowed
from pennyweight.nn import quantize
from pennyweight.numerics import cast
from pennyweight.optim import AdamW
from pennyweight.optim.moments import Moment


def test_half_steps_of_evenly_and_unevenly_spaced_codes() -> None:
    written = cast("int4/row").write(torch.tensor([[7.0, -7.0, 0.0, 3.0]]))
    up = half_steps(written, torch.ones(1, 4))
    assert up is not None
    assert up.tolist() == [[math.inf, 0.5, 0.5, 0.5]]
    # e2m1 is 0 0.5 1 1.5 2 3 4 6 and its negatives; the scale of a row whose largest is 12 is 2
    written = cast("e2m1/row").write(torch.tensor([[12.0, 4.0, 8.0, -8.0]]))
    assert half_steps(written, torch.tensor([[-1.0, 1.0, 1.0, -1.0]])).tolist() == [[2.0, 1.0, 2.0, 2.0]]
    assert half_steps(cast("log8/row").write(torch.rand(2, 4) + 1), torch.ones(2, 4)) is None


def test_updates_below_half_a_step_are_swallowed() -> None:
    before = torch.tensor([[7.0, 1.0, 2.0, 3.0, 4.0]])  # scale 1
    after = torch.tensor([[7.0, 1.4, 2.6, 3.0, 3.6]])  # moved: 1.0, 2.0, 4.0, by 0.4, 0.6, 0.4
    assert swallowed(before, after, cast("int4/row")) == {
        "image_kept": pytest.approx(2 / 3),
        "swallowed": pytest.approx(2 / 3),
    }
    # from 1.45 a move of 0.1 crosses to the next code, though half a step is 0.5
    told = swallowed(torch.tensor([[7.0, 1.45]]), torch.tensor([[7.0, 1.55]]), cast("int4/row"))
    assert told == {"image_kept": 0.0, "swallowed": 1.0}
    assert swallowed(before, before, cast("int4/row")) == {}


def test_a_moment_that_stays_though_it_should_move_is_stalled() -> None:
    old, fresh, new = (
        torch.tensor([4.0, 2.0, 0.0, 1.0]),
        torch.tensor([3.9, 1.0, 0.1, 1.0]),
        torch.tensor([4.0, 1.0, 0.0, 1.0]),
    )
    told = moved(old, fresh, new)
    assert (told["stalled"], told["zero"]) == (0.5, 0.25)  # 4.0 and 0.0 stay; 1.0 was not told to move
    assert told["db"] == pytest.approx(10 * math.log10((3.9**2 + 1 + 0.01 + 1) / (0.01 + 0.01)), abs=1e-4)  # float32
    assert moved(old, None, new) == {"stalled": pytest.approx(2 / 3)}


def test_stretches_are_whole_blocks_within_the_moment() -> None:
    moment = Moment("int8/block128", cast("int8/block128"))
    found = stretches(moment, 100_000, numbers=4096)
    assert len(found) == 4
    assert all(a % 128 == 0 and b - a == 1024 and b <= 100_000 for a, b in found)
    assert stretches(moment, 4000, numbers=4096) == [(0, 4000)]
    assert stretches(Moment("int8/row", cast("int8/row")), 100_000, numbers=4096) == [(0, 100_000)]


@pytest.mark.parametrize(("lr", "low", "high"), [(1e-7, 0.99, 1.0), (1.0, 0.0, 0.05)])
def test_a_step_of_the_optimizer_is_seen(lr: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(128, 64, bias=False))
    quantize(model, "w8a8")
    optimizer = AdamW(
        model.parameters(), lr=lr, weight_decay=0.0, m="int8/block128", v="log8/block128", rounding="nearest"
    )
    lens = Lens(model, lambda model, x: model(x).square().mean(), "fp32")
    x = torch.randn(32, 128)
    for _ in range(2):
        update = Update(lens, optimizer)
        lens.objective(model, x).backward()
        optimizer.step()
        found = update.after().measures
        model.zero_grad()
    numbers = found["0"]
    assert low <= numbers["w.swallowed"] <= high
    assert 30 < numbers["m.db"] < 50
    assert numbers["v.zero"] == 0
    # the same gradient twice: m goes from 0.1 g to 0.19 g and v likewise, so nothing that is stored may stay
    assert numbers["m.stalled"] < 0.05


def test_v_at_a_beta_that_hardly_moves_it_is_stalled_under_nearest_rounding() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(128, 64, bias=False))
    quantize(model, "w8a8")
    optimizer = AdamW(model.parameters(), lr=1e-9, betas=(0.9, 0.9999), v="linear_nz4/block128", rounding="nearest")
    lens = Lens(model, lambda model, x: model(x).sum(), "fp32")
    first, second = torch.rand(64, 128) / 2 + 0.1, torch.zeros(64, 128)
    first[:, 0], second[:, 0] = 1.0, 0.01  # v of column 0 stays 1e-4: it holds the scale of its block where it is
    for gradient in (first, second):  # all other v should decay by 1e-4, far less than half a step
        update = Update(lens, optimizer)
        model[0].weight.grad = gradient
        optimizer.step()
        found = update.after().measures
    assert found["0"]["v.stalled"] == pytest.approx(127 / 128, abs=1 / 128)
