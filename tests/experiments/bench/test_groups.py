"""The bench at a size that takes a second: groups, files, peers that are not there, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pennyweight.experiments.bench import bitsandbytes_peer, groups, layers, memory, peak, steps, torchao_peer
from pennyweight.experiments.bench.course import Quiet
from pennyweight.experiments.bench.groups import GROUPS, bench, chosen
from pennyweight.experiments.bench.rounds import Question, Timed
from pennyweight.experiments.bench.sizes import Sizes

TINY = Sizes(layers=((64, 128),), matrices=2, width=48, depth=1, heads=2, vocabulary=128, batch=2, context=8)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peers, and no compilation of the program that measures the peak."""
    for peer in (torchao_peer, bitsandbytes_peer):
        monkeypatch.setattr(peer, "missing", lambda: "not installed")
    monkeypatch.setattr(peak, "measured", lambda threads: peak.Machine("AMX", 2e12, 1e12))


def sides(found: dict, group: str) -> dict[str, dict]:
    return {row["side"]: row for row in found["rows"] if row["group"] == group}


def test_products_and_layers_have_a_row_for_each_side_with_every_round() -> None:
    found = bench(["layer", "products"], repeats=3, sizes=TINY)
    assert [row["group"] for row in found["rows"]] == ["products"] * 5 + ["layer"] * 6
    assert all(len(row["seconds"]) == 3 for row in found["rows"] if row["status"] == "measured")
    products = sides(found, "products")
    assert products["bf16 F.linear"]["speed"]["median"] == 1.0
    assert products["bf16 F.linear"]["share_of_peak"] == products["bf16 F.linear"]["rate"] / 1e12
    assert "share_of_peak" not in products["fp32 F.linear"]
    assert {"w8a8g8, nn.Linear", "w8a8g8, Conv1D", "bf16 F.linear"} <= sides(found, "layer").keys()


def test_absent_optimizers_stand_in_the_table() -> None:
    rows = sides(bench(["optimizer"], repeats=1, sizes=TINY), "optimizer")
    assert {name for name, row in rows.items() if row["note"] == "not installed"} == {
        "torchao AdamW8bit",
        "bitsandbytes AdamW8bit",
    }
    assert rows["m8v8, stochastic"]["status"] == "measured"


def test_a_folder_keeps_the_table_and_every_number(tmp_path: Path) -> None:
    found = bench(["optimizer"], repeats=2, sizes=TINY, out=tmp_path / "b")
    assert json.loads((tmp_path / "b" / "bench.json").read_text()) == json.loads(json.dumps(found))
    assert "| optimizer |" in (tmp_path / "b" / "bench.md").read_text()
    assert {"machine", "versions", "commit", "doors", "date", "sizes", "threads"} <= found.keys()
    with pytest.raises(FileExistsError, match="already holds a bench"):
        bench(["optimizer"], repeats=1, sizes=TINY, out=tmp_path / "b")


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="asked for cuda, but this PyTorch sees no GPU"):
        bench(["products"], device="cuda")


def test_a_gpu_has_sides_in_float8_and_lays_everything_on_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "float8_is_fast", lambda: False)
    there = replace(TINY, device="meta")  # stands for a GPU: tensors without numbers
    (question,) = layers.products(there)
    assert question.sides[-1] == replace(
        question.sides[-1], name="e4m3, X and W written inside", missing="no float8 here"
    )
    assert layers.layers(there)[0].sides[-1].name == "we4m3ae4m3ge4m3, nn.Linear"
    assert steps.tokens_of(there).device.type == "meta"
    assert len(layers.products(TINY)[0].sides) == 5


def test_a_gpu_is_waited_for_after_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(groups, "in_turn", lambda timed, repeats, **how: asked.append(how))
    monkeypatch.setattr(groups, "rows", lambda *found: [])
    found = {"sizes": {"device": "cuda"}, "repeats": 3, "rows": []}
    for group in ("products", "gpt2"):
        part = groups._Part(Quiet(), group, 0, 1, 3)
        groups._timed(Question(group, "", (), 1.0, "operations"), found, None, None, part)
    assert [(how["calls"], how["settle"]) for how in asked] == [
        (20, torch.cuda.synchronize),
        (1, torch.cuda.synchronize),
    ]


def test_what_was_done_before_an_interruption_stands_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(found: list[Timed], repeats: int, **how: object) -> None:
        found[0].seconds[:] = [1.0]
        raise KeyboardInterrupt

    monkeypatch.setattr(groups, "in_turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(["optimizer"], sizes=TINY, out=tmp_path / "b")
    kept = json.loads((tmp_path / "b" / "bench.json").read_text())["rows"]
    assert kept[0]["seconds"] == [1.0]


def test_memory_is_that_of_each_side_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak_bytes(side: str, sizes: Sizes, steps: int, threads: int) -> int:
        asked.append((side, steps, threads))
        return 1000 if side == "bf16 autocast" else 400

    monkeypatch.setattr(groups, "peak_bytes", peak_bytes)
    rows = sides(bench(["memory"], repeats=7, threads=1, sizes=TINY), "memory")
    assert asked == [(side, 7, 1) for side in rows]
    assert list(rows)[0] == "bf16 autocast"
    penny8 = rows["penny8, freed memory kept"]
    assert (penny8["peak_bytes"], penny8["share"]) == (400, 0.4)


def test_a_process_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="the process that trains penny8 ended with status 1"):
        memory.peak_bytes("penny8", TINY, 1, 1)


def test_the_process_measures_what_its_training_holds() -> None:
    from dataclasses import asdict

    held = memory.measured({"side": "bf16 autocast", "sizes": asdict(TINY), "steps": 1, "threads": 1})
    assert 0 <= held < 1 << 30


def test_threads_are_set_for_the_bench_and_given_back() -> None:
    torch.set_num_threads(1)
    found = bench(["optimizer"], repeats=1, threads=2, sizes=TINY)
    assert (found["threads"], torch.get_num_threads()) == (2, 1)


def test_the_random_state_stays_as_it_was() -> None:
    before = torch.random.get_rng_state()
    bench(["optimizer"], repeats=1, sizes=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_groups_come_in_the_order_of_the_table_and_step_means_three() -> None:
    assert chosen([]) == list(GROUPS)
    assert chosen(["memory", "products"]) == ["products", "memory"]
    assert chosen(["step"]) == ["gpt2", "llama", "compiled"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"only": ["product"]}, "no group 'product'; did you mean 'products'?"),
        ({"only": [""]}, "no group ''"),
        ({"device": "gpu", "sizes": None}, "cpu or cuda, got 'gpu'"),
        ({"repeats": 0}, "repeats of 1 or more, got 0"),
        ({"threads": 0}, "threads of 1 or more, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", "[?]")):
        bench(**{"sizes": TINY, **asked})


def test_a_file_in_the_way_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        bench(out=tmp_path / "file", sizes=TINY)


def test_how_long_it_takes_is_said_only_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    for progress in (False, True):
        with caplog.at_level("INFO", "pennyweight"):
            bench(["optimizer"], repeats=1, sizes=TINY, progress=progress)
        assert ("on two cores; Ctrl-C" in caplog.text) == progress
