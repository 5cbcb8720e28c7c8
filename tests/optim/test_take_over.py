"""Take over: an optimizer goes on with the states of another one that wrote them otherwise."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pennyweight.nn import quantize
from pennyweight.optim import AdamW
from pennyweight.optim.notation import moment


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(128, 64)


def stepped(model: nn.Module, optimizer: AdamW, steps: int) -> None:
    for step in range(steps):
        for place, parameter in enumerate(model.parameters()):
            noise = torch.Generator().manual_seed(100 * step + place)
            parameter.grad = torch.randn(parameter.shape, generator=noise)
        optimizer.step()


def states(optimizer: AdamW) -> list[dict[str, Tensor]]:
    return [dict(optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("written", [{}, {"m": "int8", "v": "log8"}, {"m": "bf16", "v": "log4/block128"}])
def test_the_same_storage_goes_on_bit_for_bit(written: dict[str, Any]):
    whole, changed = layer(), layer()
    one, other = AdamW(whole.parameters(), **written), AdamW(changed.parameters(), **written)
    stepped(whole, one, 3)
    stepped(changed, other, 3)
    again = AdamW([{"params": [p]} for p in reversed(list(changed.parameters()))], **written)
    for parameter, name in zip(changed.parameters(), ("0.0", "0.1"), strict=True):
        parameter.pennyweight_name = name  # the noise's names, whatever the groups
    again.take_over(other)
    assert not other.state
    stepped(whole, one, 2)
    stepped(changed, again, 2)
    assert all(map(torch.equal, whole.parameters(), changed.parameters()))
    assert one.counters()[0].state() == again.counters()[0].state()


@pytest.mark.parametrize(("m", "v"), [("int8", "log8"), ("dynamic_sym4", "log4/block128"), ("bf16", "fp32")])
def test_moments_are_decoded_and_written_again_to_nearest(m, v, caplog):
    model = layer()
    before = AdamW(model.parameters(), m="int8/block64", v="log8/block64")
    stepped(model, before, 3)
    weight = next(model.parameters())
    kept = dict(before.state[weight])
    shape = tuple(weight.shape)
    after = AdamW(model.parameters(), m=m, v=v)
    after.take_over(before)
    for slot, source, target in (("m", "int8/block64", m), ("v", "log8/block64", v)):
        values = moment(source, slot, "nearest").read(slot, kept, shape, 0, weight.numel()).view(shape)
        expected = moment(target, slot, "nearest").stored(slot, values)
        found = {name: one for name, one in after.state[weight].items() if name.split(".")[0] == slot}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name].view(-1), expected[name].view(-1)) for name in expected)
    assert after.state[weight]["step"] == 3
    assert not caplog.records  # a switch that was asked for is no warning
    stepped(model, after, 1)


def test_counted_noise_goes_on_where_it_was():
    model = layer()
    conversion = quantize(model, "w8a8g8m8v8")
    before = AdamW(model.parameters(), m="int8", v="log8")
    stepped(model, before, 2)
    after = AdamW(model.parameters(), m="int8", v="log8")
    after.take_over(before)
    assert after.counters() == [conversion.counter]
    assert conversion.counter.step == 2


def test_parameters_that_only_one_of_them_holds_are_left():
    model = layer()
    before = AdamW(model.parameters())
    stepped(model, before, 1)
    after = AdamW([model.weight])
    after.take_over(before)
    assert [len(one) for one in states(after)] == [3]
    assert list(before.state) == [model.bias]
