"""The report shows what a guard saw and did: sentences, marks, and the curve that was left."""

import pytest

from pennyweight.experiments import rescued
from pennyweight.experiments.facts import facts
from pennyweight.experiments.markdown import markdown
from pennyweight.experiments.report import page

WENT = {
    "step": 6, "what": "three <losses>", "blamed": ["a"], "back": 3, "raised": "v log8/block256", "layers": [],
    "curve": [[4, 3.0], [5, 30.0], [6, 60.0]],
}  # fmt: skip
SAID = {"step": 9, "what": "three norms", "blamed": [], "back": None}


@pytest.fixture
def row() -> rescued.Row:
    curve = [[step, 4.0 - 0.1 * step] for step in range(1, 11)]
    return {"recipe": "paper-v8", "seed": 0, "status": "finished", "val_loss": 3.0, "tokens": 100, "steps": 10,
            "curve": curve, "validation": [[0, 4.0], [10, 3.0]], "guard": [WENT, SAID], "tokens_per_second": 1.0,
            "data_hash": "d"}  # fmt: skip


def test_every_alarm_is_a_sentence_with_what_was_done(row: rescued.Row) -> None:
    went, said = rescued.sentences([row])
    assert (went.name, went.mark, said.mark) == ("paper-v8, seed 0", "holds", "open")
    assert went.said == (
        " At step 6 the guard saw: three <losses>. It went back to step 3 and on with v log8/block256; the run ended "
        "at 3.0000."
    )
    assert said.said == " At step 9 the guard saw: three norms. It said so and did nothing; the run ended at 3.0000."
    (lost,) = rescued.sentences([{**row, "status": "diverged", "val_loss": None, "guard": [WENT]}])
    assert lost.said.endswith("on with v log8/block256.")
    assert lost.mark == "open"
    assert rescued.sentences([{"recipe": "bf16"}]) == ()


def test_the_curve_is_marked_at_the_alarm_and_at_the_step_it_went_on_from(row: rescued.Row) -> None:
    assert [step for step, _ in rescued.moments(row)] == [6, 3, 9]
    assert rescued.falls(row) == [[(4.0, 3.0), (5.0, 30.0), (6.0, 60.0)]]
    (section,) = facts([row], files="f").sections
    training = next(chart for chart in section.curves if chart.title == "Training loss")
    assert [mark.at for mark in training.marks] == pytest.approx([100 * 5 / 9, 100 * 2 / 9, 100 * 8 / 9])
    assert [shade for shade, _ in training.fallen] == [0]
    assert training.fallen[0][1].startswith("M333.3 ")
    assert all(not chart.fallen for chart in section.curves if chart is not training)


def test_the_page_and_the_text_say_it(row: rescued.Row) -> None:
    said = facts([row], files="f")
    shown, text = page("report.html", said), markdown(said)
    assert 'class="fallen s0"' in shown
    assert "three &lt;losses&gt;. It went back to step 3" in shown
    assert "## What the guard saw" in text
    plain = facts([{**row, "guard": []}], files="f")
    assert "guard saw" not in page("report.html", plain) + markdown(plain)
