"""Noise depends on seed, step, name, slot and index, and on nothing else; it looks uniform and uncorrelated."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pennyweight.numerics import Counter, halves, key, uniform

NAME, SLOT = "h.0.attn.qkv.weight", "m2"


def by_the_book(key: int, index: int) -> float:
    """u_i of number-formats, section 6, on Python integers."""

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    inner = mix((index % 2**32) ^ (key % 2**32))
    return (mix((inner + (key >> 32) + (index >> 32) * 0x9E3779B9) % 2**32) >> 8) * 2.0**-24


def test_the_published_vector() -> None:
    assert key(0, 7, NAME, SLOT) == 0x839FB3A2F836B0F2
    words = [0x128A120F, 0x79BCD349, 0x2C9ED4F4]
    expected = [0.07241928577423096, 0.4755374789237976, 0.17429852485656738, 0.49274498224258423]
    assert [word >> 8 for word in words] == [int(u * 2**24) for u in expected[:3]]
    assert uniform(key(0, 7, NAME, SLOT), (4,)).tolist() == expected


@pytest.mark.parametrize("start", [0, 3, 65530, 2**31 - 90, 2**32 - 70, 2**33 + 2**31 - 5, 5 * 2**32 - 3])
@pytest.mark.parametrize("seed", [0, 123456789])
def test_every_index_has_the_noise_of_the_formula(start: int, seed: int) -> None:
    noise_key = key(seed, 3, "a", "b")
    assert uniform(noise_key, (150,), start=start).tolist() == [by_the_book(noise_key, start + i) for i in range(150)]


def half_by_the_book(key: int, index: int) -> float:
    """Two neighbours share a word, the even one its lower half."""
    x = (index // 2 % 2**32) ^ (key % 2**32)
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = (x + (key >> 32) + (index // 2 >> 32) * 0x9E3779B9) * 0x846CA68B % 2**32
    x ^= x >> 16
    return ((x >> 16 * (index % 2)) % 2**16 + 0.5) * 2.0**-16


@pytest.mark.parametrize("start", [0, 3, 131_060, 2**32 - 70, 2**33 - 71, 2**34 + 2**32 - 5, 5 * 2**33 - 3])
@pytest.mark.parametrize("seed", [0, 123456789])
def test_every_index_has_the_half_of_the_formula(start: int, seed: int) -> None:
    noise_key = key(seed, 3, "a", "b")
    assert halves(noise_key, (150,), start=start).tolist() == [
        half_by_the_book(noise_key, start + i) for i in range(150)
    ]


@pytest.mark.parametrize("draw", [uniform, halves])
def test_a_slice_has_the_noise_of_the_whole(draw: Callable[..., Tensor]) -> None:
    noise_key = key(1, 2, "a", "b")
    whole = draw(noise_key, (300, 1000))
    assert torch.equal(draw(noise_key, (300_000,)), whole.flatten())
    for first, last in ((0, 1), (17, 170_000), (65_535, 65_537), (65_536, 131_072), (299_999, 300_000), (5, 5)):
        assert torch.equal(draw(noise_key, (last - first,), start=first), whole.flatten()[first:last])


@pytest.mark.parametrize(("draw", "grid", "least"), [(uniform, 2.0**24, 0.0), (halves, 2.0**17, 2.0**-17)])
def test_noise_is_uniform_and_uncorrelated(draw: Callable[..., Tensor], grid: float, least: float) -> None:
    count = 1_000_000
    u = draw(key(0, 0, NAME, SLOT), (count,)).double()
    assert float(u.min()) >= least
    assert float(u.max()) <= 1 - 1 / grid
    assert torch.equal(u * grid, (u * grid).round())
    bins = torch.histc(u, 256, 0, 1)
    assert 0.7 < float(((bins - count / 256) ** 2 / (count / 256)).sum()) / 255 < 1.3
    others = {
        "neighbour": (u[:-1], u[1:]),
        "next neighbour": (u[:-2], u[2:]),
        "row below": (u[:-768], u[768:]),
        "next step": (u, draw(key(0, 1, NAME, SLOT), (count,))),
        "next seed": (u, draw(key(1, 0, NAME, SLOT), (count,))),
        "next name": (u, draw(key(0, 0, "h.1.attn.qkv.weight", SLOT), (count,))),
        "next slot": (u, draw(key(0, 0, NAME, "m1"), (count,))),
    }
    for pair in others.values():
        assert abs(float(torch.corrcoef(torch.stack([pair[0], pair[1].double()]))[0, 1])) < 0.005  # 5 standard errors


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    uniform(key(0, 0, "a", "b"), (1000,))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("draw", [uniform, halves])
def test_shapes_without_data_get_noise_without_data(draw: Callable[..., Tensor]) -> None:
    assert draw(5, (0, 3)).shape == (0, 3)
    assert draw(5, ()).shape == ()
    assert draw(5, (2, 3), device="meta").shape == (2, 3)
    with FakeTensorMode():
        assert draw(5, (70_000, 2)).shape == (70_000, 2)
    assert type(draw(5, (2,))) is torch.Tensor


class TestCounter:
    def test_its_keys_hold_seed_step_and_micro_batch(self) -> None:
        counter = Counter(seed=4, step=9, micro_batch=2)
        assert counter.key("w", "fwd.x") == key(4, 9, "w", "fwd.x#2")

    def test_a_step_restarts_the_micro_batches(self) -> None:
        counter = Counter(seed=4, step=9, micro_batch=2)
        counter.advance()
        assert counter == Counter(seed=4, step=10, micro_batch=0)

    def test_its_state_restores_it(self) -> None:
        counter, other = Counter(seed=4, step=9, micro_batch=2), Counter()
        assert counter.state() == {"seed": 4, "step": 9, "micro_batch": 2}
        other.load(counter.state())
        assert other == counter
