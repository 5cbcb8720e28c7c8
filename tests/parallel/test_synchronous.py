"""Synchronous is the plain loop: same weights, bit for bit."""

import torch

from pennyweight.parallel import Synchronous


def test_synchronous_is_the_plain_pytorch_loop_bit_for_bit():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(7, 5)
    left = torch.optim.AdamW(ours.parameters(), lr=0.1)
    right = torch.optim.AdamW(theirs.parameters(), lr=0.1)

    def gradient():
        left.zero_grad()
        loss = ours(x).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(3):
        loss = Synchronous().step(gradient, left)
        right.zero_grad()
        expected = theirs(x).square().mean()
        expected.backward()
        right.step()
        assert torch.equal(loss, expected.detach())
    assert torch.equal(ours.weight, theirs.weight)


def test_the_loss_returned_is_the_one_at_the_point_where_the_step_began():
    calls = []

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            closure()

    def gradient():
        calls.append(len(calls))
        return torch.tensor(float(len(calls)))

    assert Synchronous().step(gradient, Twice([torch.nn.Parameter(torch.zeros(1))], lr=0.1)).item() == 1.0
    assert calls == [0, 1]


def test_it_is_a_value():
    assert Synchronous() == Synchronous()
    assert hash(Synchronous()) == hash(Synchronous())
