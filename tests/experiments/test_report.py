"""The page: complete, self-contained, and deaf to what names try to say."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, meta

from pennyweight import experiments
from pennyweight.experiments import report
from pennyweight.experiments.results import write
from pennyweight.recipes import recipe as chosen
from pennyweight.training import Run

Make = Callable[..., dict[str, Any]]
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>|`*[a](javascript:b)\n# h \"'&{{ 7*7 }}"


class Elements(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def folder(tmp_path: Path, row: Make) -> Path:
    """A comparison of three recipes and two seeds, one of them diverged, one with a hostile name."""
    rows = [row("bf16", seed, 4.0 + seed / 10) for seed in (0, 1)]
    rows += [row("penny8", seed, 4.02 + seed / 10, peak_memory_bytes=70 * 2**20) for seed in (0, 1)]
    left = [["head", "penny4 leaves the head plain"], [HOSTILE, HOSTILE]]
    rows += [row("penny4", 0, 4.1, left=left, four_bit_share={"output": 0.9, "grad_input": 0.85, "grad_weight": 1.0})]
    rows += [{"recipe": HOSTILE, "seed": 0, "status": "diverged", "error": HOSTILE}]
    write(rows, tmp_path / "results.json")
    report(tmp_path)
    return tmp_path


def test_names_are_shown_and_never_obeyed(folder: Path) -> None:
    page = Elements((folder / "report.html").read_text())
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert not any((value or "").strip().startswith("javascript") for _, value in page.attributes)
    assert any("<script>alert(1)</script>" in text and "{{ 7*7 }}" in text for text in page.text)


def test_the_page_loads_nothing_from_anywhere(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Elements(text)
    assert not {"link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not {"src", "href", "xlink:href", "srcset", "action"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?:|url\(|@import", text)


def test_every_template_finds_those_it_is_made_of() -> None:
    home = Path(experiments.__file__).parent
    pages = Environment(autoescape=True)
    for path in home.rglob("*.html"):
        for name in meta.find_referenced_templates(pages.parse(path.read_text())):
            assert (home / str(name)).is_file(), f"{path.name} is made of {name}, which is not there"


def test_the_policy_lets_our_script_run_and_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == (Path(experiments.__file__).parent / "page.js").read_text().removesuffix("\n")
    told = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [
        value for name, value in Elements(text).attributes if name == "content" and "default-src" in str(value)
    ]
    assert str(policy).split("; ")[:3] == [
        "default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{told}'",
    ]  # fmt: skip


def test_the_page_says_what_was_asked_for(folder: Path) -> None:
    text = " ".join(" ".join(Elements((folder / "report.html").read_text()).text).split())
    for said in (
        "costs +0.49 %",  # 2 % of a nat on 4.0 and 4.1: 0.5 and 0.488
        "takes 30 % less memory at the peak",
        "Memory by category",
        "Throughput",
        "grad_input 85.0 %",
        "Not converted: head (penny4 leaves the head plain)",
        "Peak memory: the most that the process held, less what it held before the model was built.",
        "everything else (temporaries, allocator)",
        "results.json (the runs) and comparison.json (what they say)",
        "pennyweight train --recipe penny4 --seed 0 --steps 10",
        "a processor",
        "2.13.0",
        "diverged",
        "[",
    ):
        assert said in text, said


def test_markdown_says_the_same_and_its_tables_stay_whole(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "costs +0.49 %" in text
    assert "Peak memory: the most that the process held, less what it held before the model was built." in text
    assert "<script>" not in text
    widths = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = [re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()]
        widths[block.splitlines()[0]] = len(set(rows))
    assert widths
    assert set(widths.values()) == {1}


def test_hostile_names_open_no_markdown(folder: Path) -> None:
    text = re.sub(r"\\.", "", (folder / "report.md").read_text())  # what is escaped is gone
    assert "](javascript" not in text
    assert "\n# h" not in text


def test_a_comparison_without_results_json_gets_it_back_from_its_runs(tmp_path: Path, row: Make) -> None:
    for name in ("bf16", "w8a8"):
        place = tmp_path / "runs" / f"{name}-seed0"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(row(name)))
    assert report(tmp_path) == tmp_path / "report.html"
    assert [one["recipe"] for one in json.loads((tmp_path / "results.json").read_text())] == ["bf16", "w8a8"]


def test_a_run_that_finished_since_takes_the_place_of_its_failure(tmp_path: Path, row: Make) -> None:
    write([row("bf16"), {"recipe": "w8a8", "seed": 0, "status": "failed"}, row("fp32")], tmp_path / "results.json")
    place = tmp_path / "runs" / "w8a8-seed0"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(row("w8a8")))
    report(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert [(one["recipe"], one["status"]) for one in written] == [
        ("bf16", "finished"), ("w8a8", "finished"), ("fp32", "finished"),
    ]  # fmt: skip


def test_a_single_run_has_a_report_and_no_results_json(tmp_path: Path, row: Make) -> None:
    (tmp_path / "result.json").write_text(json.dumps(row("penny8")))
    page = report(tmp_path).read_text()
    text = (tmp_path / "report.md").read_text()
    assert "What training in penny8 came to" in page
    assert "machines: result.json" in page
    assert "penny8 ends at 4.0000 nats a token" in page
    for said in ("baseline", "cost", "against", "verdict", "difference to"):
        assert said not in text, said
    assert not {"results.json", "comparison.json"} & {path.name for path in tmp_path.iterdir()}


def started(folder: Path, recipe: str, *events: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    run = Run(recipe=chosen(recipe), steps=400)
    (folder / "run.json").write_text(json.dumps({"run": run.to_dict(), "data_hash": "d" * 64}))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_runs_that_did_not_finish_are_told_with_how_far_they_are(tmp_path: Path, row: Make) -> None:
    started(tmp_path / "runs" / "bf16-seed0", "bf16", *({"kind": "step", "step": n, "loss": 5.0} for n in (1, 2, 3)))
    report(tmp_path)
    assert "bf16 has no finished run (unfinished: step 3 of 400)." in (tmp_path / "report.md").read_text()
    started(tmp_path / "runs" / "w8a8-seed0", "w8a8")
    bad = {"kind": "divergence", "step": 7, "what": "the loss is nan", "where": "the head"}
    started(tmp_path / "runs" / "w2ta2t-seed0", "w2ta2t", bad)
    page = report(tmp_path).read_text()
    assert "unfinished: step 0 of 400" in page
    assert "diverged: at step 7 the loss is nan; first not finite: the head" in page
    written = json.loads((tmp_path / "results.json").read_text())
    assert [(one["recipe"], one["status"], one["val_loss"]) for one in written] == [
        ("bf16", "unfinished", None), ("w2ta2t", "diverged", None), ("w8a8", "unfinished", None),
    ]  # fmt: skip
    (tmp_path / "runs" / "bf16-seed0" / "result.json").write_text(json.dumps(row("bf16")))
    assert "1 of its runs" not in report(tmp_path).read_text()
    assert [one["status"] for one in json.loads((tmp_path / "results.json").read_text())] == [
        "finished", "diverged", "unfinished",
    ]  # fmt: skip


def test_a_single_run_that_did_not_finish_is_told_too(tmp_path: Path) -> None:
    started(tmp_path / "r", "penny8", {"kind": "step", "step": 5, "loss": 5.0})
    assert "unfinished: step 5 of 400" in report(tmp_path / "r").read_text()
    assert not (tmp_path / "r" / "results.json").exists()


def test_the_blocks_that_stay_plain_are_counted(tmp_path: Path, row: Make) -> None:
    for blocks, said in ((4, "keeps none of 4 blocks in bf16"), (7, "keeps the last 1 of 7 blocks in bf16")):
        names = [f"transformer.h.{n}.mlp.c_fc" for n in range(blocks)]
        made = row("penny4", converted=names[:-1], left=[[names[-1], "some reason"], ["lm_head", "head"]])
        (tmp_path / "result.json").write_text(json.dumps(made))
        assert said in report(tmp_path).read_text()


def test_what_steps_without_masters_swallowed_is_told_over_all_seeds(tmp_path: Path, row: Make) -> None:
    rows = [row("penny8-nomaster", seed, swallowed_share=share) for seed, share in ((0, 0.25), (1, 0.5))]
    (tmp_path / "results.json").write_text(json.dumps([row("bf16", swallowed_share=None), *rows]))
    text = report(tmp_path).with_suffix(".md").read_text()
    said = "swallowed, on average over the steps, 37.5% of the numbers that a step should have moved."
    assert f"penny8-nomaster {said}" in text
    assert "bf16 swallowed" not in text


def test_runs_of_different_data_are_told_apart_with_a_warning(tmp_path: Path, row: Make) -> None:
    write([row("bf16"), row("w8a8", data_hash="e" * 64)], tmp_path / "results.json")
    assert "stand in 2 tables" in report(tmp_path).read_text()
    assert "stand in 2 tables" in (tmp_path / "report.md").read_text()


def test_only_failed_runs_still_make_a_page(tmp_path: Path) -> None:
    write([{"recipe": "w8a8", "seed": 0, "status": "failed", "error": "no room"}], tmp_path / "results.json")
    assert "no room" in report(tmp_path).read_text()


def test_one_seed_says_that_the_spread_is_unknown(tmp_path: Path, row: Make) -> None:
    write([row("bf16"), row("w8a8", val_loss=4.01)], tmp_path / "results.json")
    assert "the spread is unknown" in report(tmp_path).read_text()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="report"):
        report(tmp_path / name)


def test_a_damaged_result_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[")
    with pytest.raises(ValueError, match=r"result\.json"):
        report(tmp_path)
