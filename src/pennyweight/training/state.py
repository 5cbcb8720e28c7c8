"""The state of a training: all that a checkpoint must hold for the rest to come out bit for bit the same."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pennyweight.analysis.passes import Lens
from pennyweight.data import Corpus, Sampler
from pennyweight.nn import Conversion, compile_blocks, quantize, requantize
from pennyweight.optim import AdamW
from pennyweight.recipes import Recipe
from pennyweight.training.checkpoint import Saved
from pennyweight.training.models import build_model
from pennyweight.training.prediction import converted_weights, state_groups
from pennyweight.training.run import Run
from pennyweight.training.settings import differences
from pennyweight.training.weights import load_weights


@dataclass
class Progress:
    """The plain numbers of a training."""

    step: int = 0  # optimizer steps taken
    tokens: int = 0  # learned from
    seconds: float = 0.0  # all of the training
    step_seconds: float = 0.0  # the steps alone
    diagnosis_seconds: float = 0.0  # looking, and writing down what was seen
    peak_memory_bytes: int = 0
    swallowed: float | None = None  # the shares of all steps, added up; None: every weight has a master
    gradient_norm: float | None = None  # of the last step, before it was clipped
    norms: list[float] = field(default_factory=list)  # of the last steps, as many as alarms read
    sound: int = 0  # steps before the last look in which the guard found nothing broken
    alarmed: int | None = None  # the last step of which the guard has heard an alarm
    guard: list[dict[str, Any]] = field(default_factory=list)  # what it saw and did, in the order of time
    raised: dict[str, Any] | None = None  # the recipe that it goes on by; None: the run's own
    memory: dict[str, int] = field(default_factory=dict)  # measured, by category
    curve: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Training:
    """Model, optimizer, sampler, noise counter and progress of a run."""

    run: Run
    model: PreTrainedModel
    conversion: Conversion
    optimizer: AdamW
    sampler: Sampler
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def begin(cls, run: Run, corpus: Corpus, device: str) -> "Training":
        """The training before its first step. Errors: ValueError for a model or data that does not fit the run."""
        end = corpus.tokenizer.convert_tokens_to_ids(str(corpus.tokenizer.eos_token))
        assert isinstance(end, int)  # of one token, one number
        model = build_model(
            run.model,
            vocab_size=corpus.vocab_size,
            context=run.data.context,
            seed=run.seed,
            end=end,
            written=run.config.written if run.config else None,
        ).to(device)  # type: ignore[arg-type]  # transformers' wrapper hides that a text is fine
        if run.weights is not None:
            load_weights(model, run.weights)
        conversion = quantize(model, run.recipe.phases[0], seed=run.seed)
        if run.compile:
            compile_blocks(model)
        sampler = Sampler(corpus.train, context=run.data.context, batch=run.batch, seed=run.seed)
        return cls(run, model, conversion, build_optimizer(run, model, conversion), sampler)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run, with what the guard has raised; perhaps a schedule."""
        raised = self.progress.raised
        return self.run.recipe if raised is None else Recipe.from_dict(raised)

    def lens(self) -> Lens:
        """How one looks at the model as it is converted now."""
        return Lens(self.model, self.run.objective, self.conversion.recipe.precision)

    def switch(self, recipe: Recipe) -> None:
        """Goes on by another recipe: layers, what lies between them, stored weights and moments, the same noise."""
        before = self.optimizer
        self.conversion = requantize(self.model, recipe)
        self.optimizer = build_optimizer(self.run, self.model, self.conversion)
        self.optimizer.take_over(before)

    def saved(self, ledger_lines: int) -> Saved:
        """What a checkpoint holds of it; tensors are not copied."""
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group.pop("counters", None)  # the noise counter is saved once, below
        optimizer["state"] = dict(sorted(optimizer["state"].items()))  # a switch may have left another order
        state = {
            "progress": dataclasses.asdict(self.progress),
            "noise": self.conversion.counter.state(),
            "sampler": self.sampler.position,
            "ledger_lines": ledger_lines,
            "run": self.run.to_dict(),
        }
        return Saved(untied(self.model.state_dict()), optimizer, state)

    def restore(self, saved: Saved) -> int:
        """Puts everything back as it was and returns how many lines the ledger had. Errors: ValueError."""
        state: dict[str, Any] = saved.state
        for name in ("noise", "sampler", "progress", "ledger_lines", "run"):
            if name not in state:
                raise ValueError(f"it does not hold its {name!r}")
        if told := differences(Run.from_dict(state["run"]), self.run):
            raise ValueError(f"it is of another run; what it holds and what was asked: {'; '.join(told)}")
        self.progress = Progress(**state["progress"])
        for name in ("curve", "validation"):
            setattr(self.progress, name, [(step, loss) for step, loss in state["progress"][name]])
        recipe = self.recipe.at(self.progress.step - 1, self.run.steps)  # of the last step taken
        if recipe != self.conversion.recipe:
            self.switch(recipe)
        own = untied(self.model.state_dict())
        if own.keys() != saved.model.keys():
            names = ", ".join(sorted(own.keys() ^ saved.model.keys())[:3])
            raise ValueError(f"it is of another model: the tensors {names} are in only one of the two")
        for name, tensor in own.items():
            if tensor.shape != saved.model[name].shape:
                shapes = f"{tuple(saved.model[name].shape)} and {tuple(tensor.shape)}"
                raise ValueError(f"it is of another model: {name} has the shapes {shapes}")
        for name, tensor in own.items():
            tensor.copy_(saved.model[name])
        self.optimizer.load_state_dict(saved.optimizer)
        self.conversion.counter.load(state["noise"])
        self.sampler.position = state["sampler"]
        return state["ledger_lines"]


def untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, not copied; one that stands under several names only under the first."""
    found: dict[tuple[int, int, tuple[int, ...]], str] = {}
    for name, tensor in tensors.items():
        found.setdefault((tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tuple(tensor.shape)), name)
    return {name: tensors[name] for name in found.values()}


def build_optimizer(run: Run, model: torch.nn.Module, conversion: Conversion) -> AdamW:
    """AdamW with the recipe's m, v and stored weights; weight decay from two dimensions on only, as nanoGPT does."""
    numbers, recipe = run.optimizer, conversion.recipe
    groups: list[dict[str, Any]] = []
    written = converted_weights(model, conversion) if recipe.weights is not None else set()
    for part, m, v in state_groups(model, conversion):
        for decay, stored, chosen in (
            (numbers.weight_decay, recipe.weights, [(n, p) for n, p in part.items() if id(p) in written]),
            (numbers.weight_decay, None, [(n, p) for n, p in part.items() if p.dim() >= 2 and id(p) not in written]),
            (0.0, None, [(n, p) for n, p in part.items() if p.dim() < 2]),
        ):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "m": m, "v": v, "weights": stored})
    return AdamW(
        groups,
        lr=numbers.lr,
        betas=numbers.betas,
        eps=numbers.eps,
        rounding=recipe.state_rounding,
        seed=run.seed,
    )
