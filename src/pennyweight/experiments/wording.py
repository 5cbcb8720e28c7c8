"""Wording: numbers and standings as people read them, the same in HTML, in Markdown and on the terminal."""

import math
import re
from collections.abc import Sequence

from pennyweight.experiments.standings import Standing, Table
from pennyweight.experiments.statistics import Spread

NOTHING = "–"  # shown where a number is unknown
PEAK = "the most that the process held, less what it held before the model was built"
LITTLE = 0.75  # of the loss before step 1: still about that of knowing only how often each token comes
FOLLOWED = "followed one another"
MINUS = "−"  # the sign as long as the plus


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int) -> str:
    """A difference: its sign always shown, unless what is shown is zero."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 2) -> str:
    """A difference in percent."""
    return NOTHING if value is None or not math.isfinite(value) else f"{signed(value, digits)} %"


def count(value: float | None) -> str:
    """A whole number in groups of three."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,}"


def size(num_bytes: float | None) -> str:
    """Bytes in MiB or GiB."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return NOTHING
    if num_bytes < 2**20:
        return f"{num_bytes / 2**10:.1f} KiB" if num_bytes >= 2**10 else f"{num_bytes:.0f} B"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def with_deviation(values: Spread | None, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    if values is None:
        return NOTHING
    tail = f" ± {number(values.deviation, digits)}" if values.deviation is not None else ""
    return f"{number(values.mean, digits)}{tail}"


def bracket(values: Spread | None, digits: int) -> str:
    """The 95 % interval of a mean difference; nothing where the spread is unknown."""
    if values is None or values.low is None or values.high is None:
        return ""
    return f"[{signed(values.low, digits)}, {signed(values.high, digits)}]"


def listing(words: Sequence[str]) -> str:
    """Words as a sentence lists them: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def folded(names: Sequence[str]) -> list[str]:
    """Names that differ in one number as one: h.0.fc, h.1.fc, h.2.fc, h.4.fc -> h.{0-2,4}.fc; none is lost."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for name in names:
        parts = tuple(re.split(r"(?<=\.)(\d{1,9})(?=\.)", name, maxsplit=1))
        kinds.setdefault((parts[0], parts[2]) if len(parts) == 3 else parts, []).extend(map(int, parts[1:2]))
    return [
        f"{kind[0]}{{{ranges(numbers)}}}{kind[1]}"
        if len(numbers) > 1
        else f"{kind[0]}{numbers[0]}{kind[1]}"
        if numbers
        else kind[0]
        for kind, numbers in kinds.items()
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers, runs of them as first-last: 0-2,4."""
    runs: list[list[int]] = []
    for value in sorted(set(numbers)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def seeds_of(table: Table) -> list[int]:
    """The seeds of the baseline's finished runs."""
    return sorted(int(row.get("seed") or 0) for row in table.standings[0].runs)


def change(values: Spread | None) -> str:
    """A difference in whole percent with its deviation over seeds, where that shows; nothing where it is unknown."""
    return "" if values is None else f"{percent(values.mean, 0)}{_deviation(values)}"


def change_of_time(values: Spread | None) -> str:
    """The same of what a clock told, which one run alone does not settle."""
    once = ", one run" if values is not None and values.deviation is None else ""
    return f"{change(values)}{once}"


def _deviation(values: Spread) -> str:
    return f" ± {values.deviation:.0f}" if values.deviation is not None and values.deviation >= 0.5 else ""


def _told_change(values: Spread | None, what: str, less: str, more: str, same: str) -> str:
    """A difference of memory or speed in words; no claim that the seeds do not bear."""
    if values is None:
        return ""
    deviation = _deviation(values)
    if values.spans_zero and deviation:
        return f"shows no sure difference in {what} ({change(values)})"
    if abs(values.mean) < 0.5:
        return same
    return (more if values.mean > 0 else less).format(f"{abs(values.mean):.0f} %{deviation}")


def _told_speed(values: Spread | None) -> str:
    """A difference of speed in words; of one run each it is what that run was, and nothing more."""
    if values is not None and values.deviation is None:
        said = _told_change(values, "speed", "was {} slower", "was {} faster", "was as fast")
        return f"{said} in one run each"
    return _told_change(values, "speed", "is {} slower", "is {} faster", "is as fast")


def _interval(cost: Spread) -> str:
    """The 95 % interval of a cost, in brackets; nothing where the spread is unknown."""
    if cost.low is None or cost.high is None:
        return ""
    return f" (95 % interval {signed(cost.low, 2)} to {signed(cost.high, 2)}, {len(cost.values)} seeds)"


def headline(standing: Standing, baseline: str) -> str:
    """What one recipe costs in quality, memory and time, in one sentence that begins with its name."""
    if not standing.runs:
        reasons = dict.fromkeys(
            f"{row.get('status')}: {row.get('error') or 'no reason given'}" for row in standing.failed
        )
        return f"{standing.recipe} has no finished run ({'; '.join(reasons)})."
    gone = f"; {len(standing.failed)} of its runs did not finish" if standing.failed else ""
    if standing.cost is None:
        end = number(standing.loss.mean if standing.loss else None, 4)
        return f"{standing.recipe} ends at {end} nats a token: {standing.verdict}{gone}."
    told = [
        f"costs {percent(standing.cost.mean)}{_interval(standing.cost)} of {baseline}'s validation loss",
        _told_change(standing.memory, "peak memory", "takes {} less memory at the peak",
                     "takes {} more memory at the peak", "takes as much memory at the peak"),
        _told_speed(standing.speed),
    ]  # fmt: skip
    return f"{standing.recipe} {listing([text for text in told if text])}: {standing.verdict}{gone}."


def summary(table: Table, *, counted: str = "recipes", timed: str = FOLLOWED) -> str:
    """What was trained or compared, in a few words; `counted`: what a line of the table is; `timed`: how they ran."""
    seeds = seeds_of(table)
    if not seeds:
        nothing = "" if table.alone else ", the baseline, has no finished run, so there is nothing to compare with"
        return f"{table.baseline}{nothing or ' has no finished run'}."
    first = table.standings[0]
    begin, end = first.mean("initial_loss"), first.loss.mean if first.loss else None
    down = f" (from {number(begin, 4)} before step 1)" if begin is not None else ""
    over = f"{len(seeds)} seeds" if len(seeds) != 1 else f"seed {seeds[0]}"
    said = over.capitalize() if table.alone else f"{len(table.standings)} {counted}, {over}"
    return (
        f"{said}, {count(table.tokens)} tokens a run{_model(first)}. "
        f"{table.baseline} ends at {with_deviation(first.loss, 4)} nats a token{down}."
        f"{_cautions(table, begin, end, len(seeds), timed)}"
    )


def _cautions(table: Table, begin: float | None, end: float | None, num_seeds: int, timed: str) -> str:
    """What a comparison's numbers cannot tell; nothing for a recipe alone."""
    if table.alone:
        return ""
    spread = " One seed each: the spread over seeds is unknown." if num_seeds == 1 else ""
    # Only interleaved steps compare speeds fairly; these runs had a process each.
    speed = f" The runs {timed}, so their tokens a second also show what else the machine did."
    return f"{_learned_little(table.baseline, begin, end)}{spread}{speed}"


def _learned_little(name: str, begin: float | None, end: float | None) -> str:
    """A caution where the losses of good and bad recipes are still alike, because no model has learned much."""
    if begin is None or end is None or end <= LITTLE * begin:
        return ""
    return f" {name} has hardly learned: after so few tokens the costs say little about a longer training."


def _model(standing: Standing) -> str:
    """Which model was trained, and how large it is."""
    name = next((row["run"].get("model") for row in standing.runs if isinstance(row.get("run"), dict)), None)
    every, inner = standing.mean("parameters"), standing.mean("parameters_non_embedding")
    size_of = f" of {million(every)} parameters, {million(inner)} of them not embeddings" if every and inner else ""
    return f", model {name}{size_of}" if name else ""


def million(value: float) -> str:
    """A count in millions, or in full below one."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else count(value)
