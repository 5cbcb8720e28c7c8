"""Shards: tokens come back from their files, and a file that was cut short or changed is noticed."""

from pathlib import Path

import numpy as np
import pytest

from pennyweight.data import shards
from pennyweight.data.shards import damage, open_shard, write_shard

PIECES = [np.array([1, 2, 65_535]), np.array([], dtype=np.int64), np.array([0, 7])]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_come_back_in_the_smallest_type_that_holds_them(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    shard = write_shard(tmp_path / "t.bin", PIECES, vocab_size)
    tokens = open_shard(tmp_path, shard)
    assert tokens.dtype == dtype
    assert tokens.tolist() == [1, 2, 65_535, 0, 7]
    assert shard["tokens"] == 5
    assert (tmp_path / "t.bin").stat().st_size == 5 * np.dtype(dtype).itemsize
    assert damage(tmp_path, shard) is None


def test_opened_tokens_cannot_be_written(tmp_path: Path) -> None:
    tokens = open_shard(tmp_path, write_shard(tmp_path / "t.bin", PIECES, 65_536))
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 3


def test_a_missing_a_truncated_and_a_changed_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    shard = write_shard(path, PIECES, 65_536)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert damage(tmp_path, shard) == "t.bin holds 9 bytes instead of 10"
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert damage(tmp_path, shard) == "t.bin was changed after it was written"
    path.write_bytes(whole)
    assert damage(tmp_path, shard) is None
    path.unlink()
    assert damage(tmp_path, shard) == "t.bin is missing"


def test_of_a_large_file_the_first_the_last_and_evenly_spread_blocks_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK", 16)
    monkeypatch.setattr(shards, "SAMPLED", 3)
    path = tmp_path / "t.bin"
    shard = write_shard(path, [np.arange(100)], 65_536)  # 200 bytes: 13 blocks, of which 0, 6 and 12 are looked at
    whole = path.read_bytes()

    def changed(at: int) -> bool:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        return damage(tmp_path, shard) is not None

    assert [at for at in range(200) if changed(at)] == [*range(16), *range(96, 112), *range(192, 200)]
