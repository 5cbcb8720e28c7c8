"""The sampler: every window once an epoch, the same for a seed whatever the batch, going on from any position."""

import hashlib

import numpy as np
import pytest
import torch

from pennyweight.data.sampler import Sampler, validation_batches

TOKENS = np.arange(1003, dtype=np.uint16)


def windows(count: int, *, batch: int, seed: int = 0, position: int = 0, context: int = 8) -> torch.Tensor:
    sampler = Sampler(TOKENS, context=context, batch=batch, seed=seed, position=position)
    return torch.cat([sampler.next() for _ in range(-(-count // batch))])[:count]


def test_a_batch_is_windows_of_successive_tokens() -> None:
    rows = Sampler(TOKENS, context=8, batch=5, seed=0).next()
    assert rows.shape == (5, 9)
    assert rows.dtype == torch.int64
    assert torch.equal(rows, rows[:, :1] + torch.arange(9))


def test_the_sequence_is_the_same_whatever_the_batch_size() -> None:
    expected = windows(300, batch=1)
    for batch in (2, 7, 124, 300):
        assert torch.equal(windows(300, batch=batch), expected)


def test_it_goes_on_from_any_position() -> None:
    expected = windows(400, batch=1)
    for position in (0, 1, 123, 124, 125, 300):
        assert torch.equal(windows(50, batch=5, position=position), expected[position : position + 50])


def test_setting_the_position_is_the_whole_state() -> None:
    sampler = Sampler(TOKENS, context=8, batch=4, seed=0)
    first = sampler.next()
    assert sampler.position == 4
    for _ in range(200):
        sampler.next()
    sampler.position = 0
    assert torch.equal(sampler.next(), first)


def test_an_epoch_reads_every_window_once_in_an_order_of_its_own() -> None:
    sampler = Sampler(TOKENS, context=8, batch=1, seed=0)
    assert sampler.windows == 124  # (1003 - 8) // 8
    starts = windows(3 * 124, batch=31)[:, 0].reshape(3, 124)
    for epoch in starts:
        ordered = epoch.sort().values
        assert torch.equal(ordered, ordered[0] + 8 * torch.arange(124))
        assert not torch.equal(epoch, ordered)
    assert len({int(epoch.min()) for epoch in starts}) > 1  # the start changes with the epoch
    assert not torch.equal(starts[0] - starts[0].min(), starts[1] - starts[1].min())


def test_starts_reach_every_offset_of_the_context() -> None:
    firsts = [int(windows(124, batch=124, position=124 * epoch)[:, 0].min()) for epoch in range(100)]
    assert set(firsts) == set(range(8))


def test_seeds_differ() -> None:
    assert not torch.equal(windows(124, batch=124, seed=0), windows(124, batch=124, seed=1))


def counted(seed: int, epoch: int, slot: str, count: int) -> list[float]:
    """The house's noise written down once more, in plain integers."""

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def mix32(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    step = 0x9E3779B97F4A7C15
    slot_hash = int.from_bytes(hashlib.blake2b(f"sampler|{slot}".encode(), digest_size=8).digest(), "little")
    key = mix((mix(mix((seed + step) % 2**64) ^ slot_hash) + epoch * step) % 2**64)
    low, high = key % 2**32, key >> 32
    return [(mix32((mix32(index ^ low) + high) % 2**32) >> 8) / 2**24 for index in range(count)]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3)])
def test_order_and_start_are_those_of_the_counted_noise(seed: int, epoch: int) -> None:
    start = int(counted(seed, epoch, "start", 1)[0] * 8)
    noise = counted(seed, epoch, "order", 124)
    expected = [start + 8 * index for index in sorted(range(124), key=noise.__getitem__)]
    assert windows(124, batch=124, seed=seed, position=124 * epoch)[:, 0].tolist() == expected


@pytest.mark.parametrize("length", [9, 10, 16, 17, 24, 25])
def test_the_shortest_corpora_are_read_without_leaving_them(length: int) -> None:
    sampler = Sampler(TOKENS[:length], context=8, batch=3, seed=0)
    for _ in range(20):
        rows = sampler.next()
        assert rows.shape == (3, 9)
        assert int(rows.max()) < length


def test_too_few_tokens_say_how_many_are_needed() -> None:
    with pytest.raises(ValueError, match=r"training part .* 8 tokens.*context of 8 \(it needs 9\).*at most 7"):
        Sampler(TOKENS[:8], context=8, batch=1, seed=0)
    with pytest.raises(ValueError, match=r"validation part .* 1 tokens"):
        validation_batches(TOKENS[:1], 8, 1, 100)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"batch": 0}, {"position": -1}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="or more"):
        Sampler(TOKENS, **{"context": 8, "batch": 1, "seed": 0, **wrong})


def test_validation_predicts_each_token_once_in_order_and_ends_at_its_limit() -> None:
    batches = list(validation_batches(TOKENS, 10, 4, 95))
    assert [tuple(batch.shape) for batch in batches] == [(4, 11), (4, 11), (1, 11), (1, 6)]
    assert torch.equal(torch.cat([batch[:, 1:].flatten() for batch in batches]), torch.arange(1, 96))
    assert torch.equal(torch.cat([batch[:, :-1].flatten() for batch in batches]), torch.arange(95))


@pytest.mark.parametrize("limit", [None, 10**9])
@pytest.mark.parametrize(
    ("length", "shapes"), [(2, [(1, 2)]), (11, [(1, 11)]), (12, [(1, 11), (1, 2)]), (31, [(2, 11), (1, 11)])]
)
def test_validation_ends_where_the_tokens_end(length: int, shapes: list[tuple[int, int]], limit: int | None) -> None:
    batches = list(validation_batches(TOKENS[:length], 10, 2, limit))
    assert [tuple(batch.shape) for batch in batches] == shapes
    assert torch.equal(torch.cat([batch[:, 1:].flatten() for batch in batches]), torch.arange(1, length))


def test_validation_refuses_a_limit_without_tokens() -> None:
    with pytest.raises(ValueError, match="limit_tokens=0"):
        validation_batches(TOKENS, 8, 4, 0)
    with pytest.raises(ValueError, match="context=0"):
        validation_batches(TOKENS, 0, 4)
