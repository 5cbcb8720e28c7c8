"""The loop: one step after the other, with what is measured, written and saved in between."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pennyweight.analysis import Look
from pennyweight.analysis.watch import Watch
from pennyweight.data import Corpus, validation_batches
from pennyweight.numerics import key, stored_of
from pennyweight.optim import state_bytes
from pennyweight.training.alarms import RECENT, WINDOW, Alarm, of_failure
from pennyweight.training.checkpoint import checkpoints, save
from pennyweight.training.folder import RunFolder
from pennyweight.training.freed import Freed
from pennyweight.training.gradient import Gradient
from pennyweight.training.guard import Diverged, Interrupt, first_bad
from pennyweight.training.guarded import Watchman
from pennyweight.training.ledger import Ledger
from pennyweight.training.memory import Categories, Peak, SavedActivations, parameter_bytes, resident_bytes
from pennyweight.training.progress import Silence
from pennyweight.training.run import Run
from pennyweight.training.schedule import learning_rate
from pennyweight.training.state import Training
from pennyweight.training.validation import validation_loss


def scheduled(run: Run, step: int) -> bool:
    """Whether a checkpoint follows this step: every so many, and at the end."""
    return step == run.steps or (run.checkpoint.every > 0 and step % run.checkpoint.every == 0)


@dataclass
class Loop:
    """One training on its way: what it is, where it writes, who watches."""

    training: Training
    corpus: Corpus
    ledger: Ledger
    folder: RunFolder | None
    bar: Silence
    interrupt: Interrupt
    peak: Peak
    saved: int | None = None  # the step of the checkpoint that stands
    unmeasured: bool = False  # whether the recipe changed since memory was measured
    watch: Watch = field(init=False)
    watchman: Watchman = field(init=False)
    began: float = field(init=False)  # on the clock, as if the training had never been stopped

    def __post_init__(self) -> None:
        self.watch = self.watching()
        self.watchman = Watchman(self.training.run, self.corpus, self.peak.device, self.ledger, self.folder)
        self.began = time.perf_counter() - self.training.progress.seconds

    def watching(self) -> Watch:
        """Who looks at the model as it is converted now."""
        run, training = self.training.run, self.training
        name = training.conversion.recipe.name
        return Watch(training.lens(), training.optimizer, **asdict(run.diagnosis), seed=run.seed, recipe=name)

    def __call__(self) -> None:
        """Trains until the last step. The first Ctrl-C saves and raises KeyboardInterrupt; see also `check`."""
        run = self.training.run
        while self.training.progress.step < run.steps and not self.interrupt.asked:
            try:
                self.advance()
            except Diverged as error:
                if not self.watchman.can_act(self.training):
                    raise self.watchman.gives_up(self.training, error) from None
                losses = [loss for _, loss in self.training.progress.curve]
                self.goes_back(of_failure(losses, error.step, error.what))
        progress = self.training.progress
        if self.interrupt.asked:
            if self.saved != progress.step:
                self.save()
                self.ledger.write("checkpoint", progress.step)
            self.ledger.write("interruption", progress.step)
            self.ledger.sync()
            raise KeyboardInterrupt(f"stopped after step {progress.step} of {run.steps}{self.standing()}")

    def advance(self) -> None:
        """The next step, and what falls due after it; or back to a step before. Errors: Diverged."""
        run, progress = self.training.run, self.training.progress
        if not progress.validation:
            self.evaluate()
        self.switch()
        alarm = self.step()
        if alarm is not None and self.goes_back(alarm):
            return
        if progress.step == run.steps or progress.step % (run.evaluation.every or max(1, run.steps // 10)) == 0:
            self.evaluate()
        progress.seconds = time.perf_counter() - self.began
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, self.peak.bytes())
        if scheduled(run, progress.step):
            self.save()
            self.ledger.write("checkpoint", progress.step)

    def goes_back(self, alarm: Alarm) -> bool:
        """Answers an alarm; whether the training goes on from where it was sound, as another one."""
        again = self.watchman.answers(self.training, alarm)
        if again is None:
            return False
        self.training, self.unmeasured = again, True
        self.watch, self.saved = self.watching(), again.progress.step or None
        return True

    def switch(self) -> None:
        """Goes on by the recipe of the next step, where that is another one."""
        training, run, step = self.training, self.training.run, self.training.progress.step
        before, recipe = training.conversion.recipe, training.recipe.at(step, run.steps)
        if recipe != before:
            training.switch(recipe)
            self.watch = self.watching()
            self.unmeasured = True
            self.ledger.write("switch", step, before=before.name, recipe=recipe.name)

    def step(self) -> Alarm | None:
        """One optimizer step, and its line in the ledger; what alarms the guard in it, if anything does."""
        training, run, progress = self.training, self.training.run, self.training.progress
        began = time.perf_counter()
        lr = learning_rate(run.schedule, progress.step, run.steps, run.optimizer.lr)
        for group in training.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(key(run.seed, progress.step, "dropout", "") >> 1)  # >> 1: torch takes 63 bits
        batches = [training.sampler.next().to(self.peak.device) for _ in range(run.accumulate)]
        suspicion = self.watchman.suspects(training)
        wanted = suspicion is not None and self.watchman.can_act(training)
        looks, paused = wanted or self.watch.due(progress.step + 1), time.perf_counter()
        if looks:
            self.watch.before(progress.step + 1, batches[0])
        began += time.perf_counter() - paused  # looking is no part of the step
        saved = SavedActivations(training.model)
        measures = self.unmeasured or not progress.memory
        gradient = self.gradient(batches, saved if measures else nullcontext)
        loss, paused = run.strategy.step(gradient, training.optimizer).item(), time.perf_counter()
        look = self.watch.after(progress.step + 1) if looks else None
        began += time.perf_counter() - paused
        gradient.clear()
        seconds = time.perf_counter() - began
        if measures:
            progress.memory = max(progress.memory, self.measured(gradient, saved), key=lambda held: sum(held.values()))
            self.unmeasured = False
        progress.step += 1
        progress.tokens += run.tokens_per_step
        progress.step_seconds += seconds
        progress.gradient_norm = gradient.norm
        progress.norms = [*progress.norms[-WINDOW - RECENT + 1 :], gradient.norm]
        progress.curve.append((progress.step, loss))
        numbers = {"loss": loss, "learning_rate": lr, "gradient_norm": gradient.norm, "tokens": progress.tokens}
        if (swallowed := training.conversion.swallowed_share) is not None:
            numbers["swallowed_share"] = swallowed
            progress.swallowed = (progress.swallowed or 0.0) + swallowed
        rate = run.tokens_per_step / seconds
        self.ledger.write(
            "step", progress.step, **numbers, tokens_per_second=round(rate, 1), resident_bytes=resident_bytes()
        )
        self.bar.step(progress.step, loss, rate)
        line = None if look is None else self.tell(look)
        return self.watchman.hears(training, suspicion, line)

    def tell(self, look: Look) -> dict[str, Any]:
        """Writes down what was seen, returns the line, and counts how long looking and writing took."""
        began = time.perf_counter()
        line = {"step": look.step, **look.to_line()}
        self.ledger.write("diagnosis", **line)
        spent = look.seconds + look.sharpness_seconds + time.perf_counter() - began
        self.training.progress.diagnosis_seconds += spent
        return line

    def gradient(self, batches: list[Tensor], watch: Callable[[], AbstractContextManager[object]]) -> Gradient:
        """The gradient point of one step on `batches`, as the run holds or frees it."""
        training, run = self.training, self.training.run
        kind: Callable[..., Gradient] = Gradient
        if run.gradients == "freed":
            early = run.objective.early(training.model, batches[0])
            kind = partial(Freed, optimizer=training.optimizer, counter=training.conversion.counter, early=early)
        return kind(
            model=training.model,
            objective=run.objective,
            precision=training.conversion.recipe.precision,
            clip=run.clip,
            batches=batches,
            check=partial(self.check, batches),
            watch=watch,
            previous=training.progress.gradient_norm if run.clip_by == "previous" else None,
        )

    def measured(self, gradient: Gradient, saved: SavedActivations) -> Categories:
        """Bytes of what one step really held, by category."""
        return {
            "weights": parameter_bytes(self.training.model),
            "gradients": gradient.memory_bytes,
            "states": state_bytes(self.training.optimizer),
            "saved activations": saved.bytes,
        }

    def evaluate(self) -> None:
        """Measures the loss on the fixed validation set, with the recipe's own forward pass."""
        run, progress = self.training.run, self.training.progress
        self.bar.phase("evaluating")
        batches = validation_batches(self.corpus.valid, run.data.context, run.batch, run.evaluation.tokens)
        loss = validation_loss(
            self.training.model,
            batches,
            objective=run.objective,
            precision=self.training.conversion.recipe.precision,
            device=self.peak.device,
        )
        if not math.isfinite(loss):
            batches = validation_batches(self.corpus.valid, run.data.context, run.batch, run.evaluation.tokens)
            self.diverged(progress.step, f"the validation loss is {loss}", self.blame(batches))
        progress.validation.append((progress.step, loss))
        self.ledger.write("evaluation", progress.step, loss=loss)
        self.bar.phase("")

    def save(self) -> None:
        """Saves a checkpoint, where anything is kept. Errors: Diverged rather than saving weights that are lost."""
        training, step = self.training, self.training.progress.step
        for name, parameter in training.model.named_parameters():
            stored = stored_of(parameter)
            if not (parameter if stored is None else stored.scales).isfinite().all():
                self.diverged(step, "the weights are no longer finite", f"the weights {name}")
        if self.folder is not None:
            self.bar.phase("saving")
            self.ledger.sync()
            save(
                self.folder.checkpoints,
                step,
                training.saved(self.ledger.lines),
                keep=training.run.checkpoint.keep,
                spare=training.progress.sound if self.watchman.acts else None,
            )
            self.saved = step
            self.bar.phase("")

    def check(self, batches: list[Tensor], loss: Tensor, norm: float, where: str | None = None) -> None:
        """Stops a step whose loss or gradient is not finite, before it moves a weight. Errors: Diverged.

        `where`: of a gradient freed layer by layer, when weights have moved already; no checkpoint is made of them.
        """
        if loss.isfinite() and math.isfinite(norm):
            return
        step = self.training.progress.step + 1
        what = f"the gradient's norm is {norm}" if loss.isfinite() else f"the loss is {loss.item()}"
        self.diverged(step, what, where or self.blame(batches))

    def blame(self, batches: Iterable[Tensor]) -> str:
        """Where NaN or infinity first appears when the model reads `batches` again."""
        run, model = self.training.run, self.training.model
        precision = self.training.conversion.recipe.precision
        again = Gradient(
            model=model, objective=run.objective, precision=precision, clip=None, batches=[], check=lambda *_: None
        )
        places = (first_bad(model, partial(again.loss, batch.to(self.peak.device))) for batch in batches)
        return next((place for place in places if place is not None), "the sum over the batches, each of them finite")

    def diverged(self, step: int, what: str, where: str) -> None:
        """Writes down what went bad where, and raises Diverged."""
        self.ledger.write("divergence", step, what=what, where=where)
        sentence = f"at step {step} {what}; first not finite: {where}{self.standing()}"
        raise Diverged(sentence, step=step, where=where, what=f"{what}; first not finite: {where}")

    def standing(self) -> str:
        """The end of a sentence: which checkpoint stands."""
        found = checkpoints(self.folder.checkpoints) if self.folder else []
        if not self.folder or not found:
            return "; there is no checkpoint yet"
        return f"; the last checkpoint is {found[0].name} in {self.folder.path}"
