"""Rounds: several ways of one piece of work, timed in turn, so that a noisy machine cannot favour any of them."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WARM = 1  # calls before the first round: kernels are loaded or compiled, optimizer states made


@dataclass(frozen=True)
class Built:
    """What is timed, and what the table says of it."""

    call: Callable[[], object]
    note: str = ""


@dataclass(frozen=True)
class Side:
    """One way of doing a piece of work.

    build:   makes all that has to be there before the clock starts.
    peak:    "int8" or "bf16": the instructions it lives on, for its share of the machine's peak.
    missing: why it cannot be measured here; None where it can.
    """

    name: str
    build: Callable[[], Built]
    peak: str = ""
    missing: str | None = None


@dataclass(frozen=True)
class Question:
    """One piece of work and the sides that do it; the first one is what the others are compared with."""

    group: str
    what: str
    sides: tuple[Side, ...]
    work: float  # of one call
    unit: str  # of the work


@dataclass
class Timed:
    """One side's seconds, a round each; none where it could not be measured, and then the note says why."""

    side: Side
    seconds: list[float] = field(default_factory=list)
    note: str = ""


def begun(sides: Sequence[Side]) -> list[Timed]:
    """Every side before its first round."""
    return [Timed(side, note=side.missing or "") for side in sides]


def in_turn(
    found: Sequence[Timed], repeats: int, *, tell: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter, calls: int = 1, settle: Callable[[], object] = lambda: None,
    after: Callable[[int], object] = lambda rounds: None,
) -> None:  # fmt: skip
    """Times every side once in each of `repeats` rounds, into `found`; each round begins with another side.

    calls:  made one after the other in one timing, which is that of one of them.
    settle: waits until all that was asked for is done: a GPU computes behind the caller's back.
    after:  is called after every round, with how many there were.

    A side that fails with a RuntimeError while it is built or warmed says so, and the others go on. An interruption
    (KeyboardInterrupt goes through) leaves whole rounds only.
    """
    ready = [(call, timed) for timed in found if (call := _prepared(timed, tell, settle)) is not None]
    tell(f"{repeats} rounds of {'; '.join(timed.side.name for _, timed in ready)}")
    try:
        for number in range(repeats):
            first = number % max(1, len(ready))
            gc.collect()
            for call, timed in ready[first:] + ready[:first]:
                began = clock()
                for _ in range(calls):
                    call()
                settle()
                timed.seconds.append((clock() - began) / calls)
            after(number + 1)
    finally:
        whole = min((len(timed.seconds) for _, timed in ready), default=0)
        for _, timed in ready:
            del timed.seconds[whole:]


def _prepared(timed: Timed, tell: Callable[[str], None], settle: Callable[[], object]) -> Callable[[], object] | None:
    """What is timed, called once or more already; None where it cannot be, and the note says why."""
    if timed.side.missing is not None:
        return None
    tell(f"preparing {timed.side.name}")
    try:
        built = timed.side.build()
        for _ in range(WARM):
            built.call()
        settle()
    except RuntimeError as error:
        timed.note = f"failed: {' '.join(str(error).split())[:120] or type(error).__name__}"
        return None
    timed.note = built.note
    return built.call


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of the rounds."""

    median: float
    low: float
    high: float


def ratio(baseline: Sequence[float], own: Sequence[float]) -> Ratio:
    """How many times as fast as the baseline, round by round: both lists hold the same rounds, at least one."""
    values = [theirs / ours for theirs, ours in zip(baseline, own, strict=True)]
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)
