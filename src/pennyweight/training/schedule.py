"""Learning rates: pure functions of the step."""

import math

from pennyweight.training.run import Schedule


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """How many of `steps` go up: a share below 1 is rounded, but to at least one step."""
    if schedule.warmup >= 1 or schedule.warmup == 0:
        return int(schedule.warmup)
    return max(1, round(schedule.warmup * steps))


def learning_rate(schedule: Schedule, step: int, steps: int, peak: float) -> float:
    """The learning rate of the step with index `step` (0 ... steps - 1) of a run with `steps` steps.

    Warm-up is linear and reaches `peak` at its last step; the last step of the run has final * peak
    (cosine, wsd) or peak (constant).
    Source: cosine: Loshchilov and Hutter 2016, arXiv:1608.03983 (one period); wsd, warm-up then stable then decay:
    Hu et al. 2024, arXiv:2404.06395, with the linear decay of Haegele et al. 2024, arXiv:2405.18392.
    """
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.shape == "constant":
        return peak
    if schedule.shape == "cosine":
        progress = (step + 1 - warmup) / (steps - warmup)
        down = (1 + math.cos(math.pi * progress)) / 2
    else:
        decay = min(max(1, round(schedule.decay * steps)), steps - warmup) if schedule.decay else 0
        left = steps - 1 - step
        down = left / decay if left < decay else 1.0
    return peak * (schedule.final + (1 - schedule.final) * down)
