"""Plans: what fewer minutes leave out, in which order, and where they end."""

import pytest

from pennyweight.experiments.studies import planning
from pennyweight.experiments.studies.study import Study


def fitted(small: Study, minutes: float, scale: str = "full") -> tuple[list[int], int, str]:
    """Seeds of each part, steps, and what is left out, at 32 tokens a step and 10 tokens a second."""
    plan = planning.fitted(small, small.scales[scale], "stdlib", minutes=minutes, tokens_per_second=10.0, jobs=2)
    return [part.seeds for part in plan.parts], plan.base.steps, plan.left_out


def seconds(runs: int, seeds: int, steps: int) -> float:
    return runs * (planning.START_SECONDS + steps * 32 / 10) / 2 + planning.AFTER_SECONDS * seeds


def test_fewer_minutes_leave_out_seeds_then_parts_then_tokens(small: Study) -> None:
    assert fitted(small, seconds(45, 9, 40) / 60) == ([5, 4], 40, "")
    seeds, steps, said = fitted(small, seconds(45, 9, 40) / 60 - 0.01)
    assert (seeds, steps) == ([4, 4], 40)
    assert said == "For the minutes given it leaves out 1 of 5 seeds at usual."
    assert fitted(small, seconds(30, 6, 40) / 60)[:2] == ([3, 3], 40)
    seeds, steps, said = fitted(small, seconds(15, 3, 40) / 60)
    assert (seeds, steps) == ([3], 40)
    assert said == "For the minutes given it leaves out all of slow, 2 of 5 seeds at usual."
    assert fitted(small, seconds(15, 3, 20) / 60) == (
        [3],
        20,
        "For the minutes given it leaves out all of slow, 2 of 5 seeds at usual, "
        "50 % of the tokens of every run.",
    )  # fmt: skip


def test_too_few_minutes_are_told_the_least(small: Study) -> None:
    least = seconds(15, 3, 20) / 60
    with pytest.raises(ValueError, match=rf"takes {-(-least // 1):.0f} minutes or more here .* got --minutes 1"):
        fitted(small, 1)


def test_seeds_vary_slowest_and_no_run_stands_twice(small: Study) -> None:
    cells = planning.whole(small, small.scales["full"], "stdlib").cells()
    assert len({cell.id for cell in cells}) == len(cells) == 45
    assert [cell.run.seed for cell in cells[:6]] == [0, 100, 0, 0, 0, 1]
    assert [cell.axes for cell in cells[25:27]] == [(("arm", "bf16, slow"),), (("arm", "bf16 again, slow"),)]
