"""Reaching: how long a run trained until its validation loss was down to a given one."""

from pennyweight.experiments.results import Row

NEAR = 1.02  # of the baseline's final loss: what a good recipe reaches too, whichever way the seeds fall


def seconds_to(row: Row, loss: float) -> float | None:
    """Seconds of training steps, evaluation and saving left out, until the validation loss was first `loss`.

    Between two evaluations the loss is taken to fall in a straight line. None: never reached, or not told, or there
    before step 1.
    """
    curve, rate = row.get("validation"), row.get("tokens_per_second")
    tokens, steps = row.get("tokens"), row.get("steps")
    if not (curve and rate and tokens and steps):
        return None
    seconds = tokens / steps / rate  # a step
    before: tuple[float, float] | None = None
    for step, value in curve:
        if value is not None and value <= loss:
            if before is None:
                return None
            share = (before[1] - loss) / (before[1] - value)
            return (before[0] + share * (step - before[0])) * seconds
        before = (step, value) if value is not None else None
    return None
