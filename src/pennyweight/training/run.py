"""Run: everything that decides a training, as one frozen value that prints, compares and saves."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Any, Literal, Self, TypeVar, dataclass_transform

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails, PydanticCustomError

from pennyweight.data.sources import usual
from pennyweight.parallel import Synchronous
from pennyweight.recipes import Recipe, recipe
from pennyweight.spelling import choose, closest, nearest
from pennyweight.training.objectives import NextToken

T = TypeVar("T")


def _number(given: object) -> object:
    """Passes on what is not true or false, which Python counts as 1 and 0."""
    if isinstance(given, bool):
        raise PydanticCustomError("bool", "Input should be a number")
    return given


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Part = dict[str, Any]  # JSON: what a run looks like in a file

TRACKERS = ("auto", "none", "tensorboard", "wandb", "mlflow")  # auto: TensorBoard where it is installed
STRATEGIES: dict[str, type[Synchronous]] = {"synchronous": Synchronous}
OBJECTIVES: dict[str, type[NextToken]] = {"next-token": NextToken}


def sentence(owner: type, error: ValidationError) -> str:
    """What was wrong with the values given to `owner`, in one sentence."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    kind = first["type"]
    if kind in {"unexpected_keyword_argument", "unexpected_positional_argument"}:
        inner = _owner(owner, path[:-1])
        known = [f.name for f in dataclasses.fields(inner)]
        return f"{inner.__name__} has no field {path[-1]!r}{nearest(path[-1], known)}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "value_error":
        return message
    where = ".".join([owner.__name__, *path])
    return f"{where}: {message[:1].lower()}{message[1:]}, got {first['input']!r}{_meant(first)}"


def _meant(wrong: ErrorDetails) -> str:
    """The choice that a misspelt one was probably meant to be, where there is a choice: "; did you mean 'freed'?"."""
    names = ["true", "false"] if wrong["type"] == "bool_type" else []
    if wrong["type"] == "literal_error":
        names = re.findall("'([^']*)'", wrong.get("ctx", {})["expected"])
    found = closest(str(wrong["input"]), names)
    return f"; did you mean {found!r}?" if found else ""


def _owner(owner: type, path: list[str]) -> type:
    """The class of the part of `owner` that stands at `path`."""
    for name in path:
        found = next((f.type for f in dataclasses.fields(owner) if f.name == name), None)
        if not isinstance(found, type) or not dataclasses.is_dataclass(found):
            break
        owner = found
    return owner


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def value(cls: type[T]) -> type[T]:
    """A frozen, checked dataclass whose errors are one sentence (ValueError) with the nearest right name."""
    made: Any = pydantic_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    check: Callable[..., None] = made.__init__

    @functools.wraps(check)
    def init(self: object, *args: object, **kwargs: object) -> None:
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            raise ValueError(sentence(made, error)) from None

    made.__init__ = init
    return made


def _chosen(kind: str, table: dict[str, type]) -> Callable[[object], object]:
    def choose(given: object) -> object:
        if isinstance(given, tuple(table.values())):
            return given
        if not isinstance(given, str):
            raise ValueError(f"Run.{kind} is one of {', '.join(map(repr, table))}, got {given!r}")
        if given not in table:
            raise ValueError(f"Run has no {kind} {given!r}{nearest(given, list(table))}")
        return table[given]()

    return choose


def _as_recipe(given: object) -> object:
    if isinstance(given, dict):
        return Recipe.from_dict(given)
    if not isinstance(given, str | Recipe):
        raise ValueError(f"Run.recipe is a name such as 'penny8', notation such as 'w8a8' or a Recipe, got {given!r}")
    return recipe(given) if isinstance(given, str) else given


def _tracker(given: str) -> str:
    choose("Run.tracker", given, TRACKERS)
    return given


@value
class Data:
    """What the model reads."""

    # "stdlib", a file, a folder, or "hf:name[/config][:split][#column]"
    source: Annotated[str, AfterValidator(usual)] = "stdlib"
    tokenizer: str = "bpe-4096"
    context: Annotated[Int, Field(ge=1)] = 256  # tokens a sequence
    validation: Annotated[Float, Field(gt=0, le=0.5)] = 0.05  # share of the bytes that is only measured on


@value
class Optimizer:
    """AdamW's numbers; what m and v are written in belongs to the recipe."""

    lr: Annotated[Float, Field(gt=0, le=1e30)] = 1e-3  # at the top of the schedule; 1e30: an update fits in float32
    betas: tuple[Annotated[Float, Field(ge=0, lt=1)], Annotated[Float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    eps: Annotated[Float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[Float, Field(ge=0)] = 0.1  # of tensors with two or more dimensions only


@value
class Schedule:
    """How the learning rate moves: up over `warmup`, then by `shape` down to `final` times the top.

    Errors: ValueError in one sentence, also for a number that the shape does not read.
    """

    shape: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: Annotated[Float, Field(ge=0)] = 0.1  # below 1: a share of the steps; else a number of steps
    final: Annotated[Float, Field(ge=0, le=1)] = 0.1
    decay: Annotated[Float, Field(ge=0, le=1)] = 0.2  # wsd: the share of the steps that goes down

    @model_validator(mode="after")
    def _every_number_is_read(self) -> Self:
        if self.shape == "constant" and self.final != Schedule.final:
            raise ValueError(f"Schedule.final is where cosine and wsd end, but shape is 'constant', got {self.final:g}")
        if self.shape != "wsd" and self.decay != Schedule.decay:
            raise ValueError(f"Schedule.decay is how wsd ends, but shape is {self.shape!r}, got {self.decay:g}")
        return self


@value
class Evaluation:
    """When the fixed validation set is measured."""

    every: Annotated[Int, Field(ge=0)] = 0  # steps; 0: ten times a run
    tokens: Annotated[Int, Field(ge=1)] = 65536  # of the validation part, from its beginning


@value
class Checkpoint:
    """When the state of the run is saved."""

    every: Annotated[Int, Field(ge=0)] = 0  # steps; 0: at the end and on Ctrl-C only
    keep: Annotated[Int, Field(ge=1)] = 2


@value
class Diagnosis:
    """How often training is looked at, in steps; 0: never. Looking changes no number (`analysis.Watch`)."""

    every: Annotated[Int, Field(ge=0)] = 50  # tensors, products, moments, updates
    fidelity_every: Annotated[Int, Field(ge=0)] = 100  # weight gradients against full precision
    sharpness_every: Annotated[Int, Field(ge=0)] = 0  # costs some fifty gradients of two sequences


@value
class Guard:
    """What is done where a divergence is seen coming (`training.alarms`).

    off   nothing: a loss that is no number ends the run
    warn  it is said, on stderr and in the ledger; no number changes
    act   the training goes back to where it was sound, and goes on with more precision in what the diagnosis blames
    """

    mode: Literal["off", "warn", "act"] = "warn"
    rescues: Annotated[Int, Field(ge=1)] = 4  # after so many times, act does as warn


def _as_text(given: object) -> object:
    return json.dumps(given, sort_keys=True) if isinstance(given, dict) else given


@value
class Config:
    """What a model's config said when a run began: the run stays the same when the file changes or moves."""

    of: str  # the `Run.model` that it was read from
    says: Annotated[str, BeforeValidator(_as_text)]  # JSON, its keys sorted

    @property
    def written(self) -> Part:
        """The config as plain JSON."""
        return json.loads(self.says)


@value
class Weights:
    """What a training begins from, where that is not fresh: the weights of a model folder, read from safetensors."""

    of: Annotated[str, Field(min_length=1)]  # the folder, of a model or a run, or one safetensors file
    hash: str = ""  # sha256 of what its files held when the run began; "": it is still to be read


def _as_weights(given: object) -> object:
    if not isinstance(given, str | dict | Weights | None):
        raise ValueError(f"Run.weights is the folder of a model or a run, got {given!r}")
    return Weights(of=given) if isinstance(given, str) else given


@value
class Run:
    """Everything that decides a training. `Run()` is the humble baseline: bf16, a tiny GPT-2, the standard library.

    `batch` counts sequences in a micro-batch, so one step reads batch * accumulate * data.context tokens.
    Errors: ValueError in one sentence, with the nearest right name.
    """

    model: Annotated[str, Field(min_length=1)] = "tiny"  # its config is read, its weights are not
    data: Data = Data()
    recipe: Annotated[InstanceOf[Recipe], BeforeValidator(_as_recipe)] = field(default_factory=lambda: recipe("bf16"))
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    strategy: Annotated[InstanceOf[Synchronous], BeforeValidator(_chosen("strategy", STRATEGIES))] = Synchronous()
    objective: Annotated[InstanceOf[NextToken], BeforeValidator(_chosen("objective", OBJECTIVES))] = NextToken()
    steps: Annotated[Int, Field(ge=1)] = 400
    batch: Annotated[Int, Field(ge=1)] = 16
    accumulate: Annotated[Int, Field(ge=1)] = 1
    clip: Annotated[Float, Field(gt=0)] | None = 1.0  # largest norm of the whole gradient; None: as it comes
    clip_by: Literal["exact", "previous"] = "exact"  # the norm that is cut: of this step, or the last
    gradients: Literal["held", "freed"] = "held"  # until the step, or each until the optimizer has taken it
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    tracker: Annotated[str, AfterValidator(_tracker)] = "auto"  # who else is told what the ledger is told
    compile: StrictBool = False  # the blocks by torch.compile: faster where much lies between the layers
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    diagnosis: Diagnosis = Diagnosis()
    guard: Guard = Guard()
    weights: Annotated[Weights | None, BeforeValidator(_as_weights)] = None  # to begin from; None: fresh ones
    config: Config | None = None  # of `model`, as it was when the run began; None: it is still to be read

    @model_validator(mode="after")
    def _config_is_of_the_model(self) -> Self:
        if self.config is not None and self.config.of != self.model:
            object.__setattr__(self, "config", None)  # a run with another model: the config is still to be read
        return self

    @model_validator(mode="after")
    def _saved_tensors_are_seen(self) -> Self:
        if self.compile and self.recipe.then:
            raise ValueError(f"recipe {str(self.recipe)!r} switches, which compiled blocks cannot; use compile=false")
        if self.compile and self.recipe.saved is not None:
            raise ValueError(
                f"recipe {self.recipe} writes what autograd saves, which compiled blocks do not show; use compile=false"
            )
        return self

    @model_validator(mode="after")
    def _guard_can_act(self) -> Self:
        if self.guard.mode != "act" and self.guard.rescues != Guard.rescues:
            raise ValueError(f"Guard.rescues is how often 'act' goes back, but mode is {self.guard.mode!r}")
        if self.guard.mode == "act" and self.compile:
            raise ValueError(
                "Guard.mode='act' raises the precision of a training under way, which compiled blocks cannot; use "
                "compile=false, or guard.mode=warn"
            )
        if self.guard.mode == "act" and not self.diagnosis.every:
            raise ValueError(
                "Guard.mode='act' raises what the diagnosis blames, but diagnosis.every=0 looks at nothing; set "
                "diagnosis.every=50, or guard.mode=warn"
            )
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        warmup = self.schedule.warmup
        if warmup >= 1 and (warmup != int(warmup) or warmup > self.steps):
            raise ValueError(
                f"Schedule.warmup is a share below 1 or a whole number of at most steps={self.steps}, got {warmup:g}"
            )
        return self

    @model_validator(mode="after")
    def _switches_fit(self) -> Self:
        self.recipe.switches(self.steps)
        return self

    @model_validator(mode="after")
    def _gradients_fit(self) -> Self:
        if self.clip is None and self.clip_by != "exact":
            raise ValueError(f"Run.clip_by={self.clip_by!r} says by which norm clip cuts, but clip is None; set clip")
        if self.gradients == "freed" and self.accumulate > 1:
            raise ValueError(
                "Run.gradients='freed' gives every gradient away after one micro-batch, but "
                f"accumulate={self.accumulate} adds up several; take one larger batch, or gradients='held'"
            )
        if self.gradients == "freed" and self.clip is not None and self.clip_by == "exact":
            raise ValueError(
                f"Run.gradients='freed' gives gradients away before the norm is known that clip={self.clip:g} cuts "
                "exactly; set clip_by='previous' or clip=None, or gradients='held'"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step learns from."""
        return self.batch * self.accumulate * self.data.context

    def to_dict(self) -> Part:
        """The run as plain JSON; `Run.from_dict` undoes it."""
        written: Part = {}
        for name in (f.name for f in dataclasses.fields(self)):
            part = getattr(self, name)
            if isinstance(part, Recipe):
                written[name] = part.to_dict()
            elif isinstance(part, Config):
                written[name] = {"of": part.of, "says": part.written}
            elif name == "config":
                continue
            elif name in CHOICES:
                written[name] = next(text for text, made in CHOICES[name].items() if type(part) is made)
            elif dataclasses.is_dataclass(part) and not isinstance(part, type):
                written[name] = {
                    key: list(one) if isinstance(one, tuple) else one for key, one in dataclasses.asdict(part).items()
                }
            else:
                written[name] = part
        return written

    @classmethod
    def from_dict(cls, written: Part) -> "Run":
        """The run that `to_dict` wrote; an unknown field is a ValueError with the nearest right name."""
        return cls(**written)


CHOICES: dict[str, dict[str, type]] = {"strategy": dict(STRATEGIES), "objective": dict(OBJECTIVES)}
