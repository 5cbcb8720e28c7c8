"""Result: what a run came to, as one value that saves."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to. Losses are in nats a token, on the fixed validation set."""

    recipe: str
    seed: int
    val_loss: float  # from the recipe's own forward pass
    val_loss_plain: float  # of the model as saved: weights as the recipe writes them, activations not written
    perplexity: float  # exp(val_loss)
    bits_per_byte: float  # val_loss over the bytes that a token of the validation text stands for
    tokens: int  # learned from
    steps: int
    tokens_per_second: float  # while training; evaluation and saving left out
    peak_memory_bytes: int  # resident at the peak, less what stood before the model was built
    seconds: float  # from the first evaluation to the last
    initial_loss: float  # before step 1
    status: str  # "finished"
    data_hash: str
    folder: str | None
    parameters: int  # all
    parameters_non_embedding: int
    memory: dict[str, dict[str, int | None]]  # category -> {"predicted", "measured"} in bytes
    curve: list[tuple[int, float]]  # (step, training loss)
    validation: list[tuple[int, float]]  # (step, validation loss)
    four_bit_share: dict[str, float]  # product -> share of the blocks' multiply-adds with both operands in <= 4 bits
    eight_bit_share: dict[str, float]
    converted: list[str]  # names of the layers that compute with the recipe
    left: list[tuple[str, str]]  # (name, why) of those that do not
    run: dict[str, Any]  # the resolved run, `Run.from_dict` reads it
    machine: dict[str, Any]
    versions: dict[str, str]
    # Of the numbers that a step should have moved, the share whose codes stayed, on average over the steps; None: every
    # weight has a master
    swallowed_share: float | None = None
    # What the guard saw: {step, what, blamed, back}; where it went back, {raised, layers, curve} too: (step, loss) left
    guard: list[dict[str, Any]] = field(default_factory=list)
    diagnosis_seconds: float = 0.0  # of `seconds`: looking at the training, and writing down what was seen

    def __repr__(self) -> str:
        """What people ask first, on one line; `to_dict` tells all."""
        names = ("recipe", "seed", "val_loss", "tokens", "tokens_per_second", "peak_memory_bytes", "status", "folder")
        return f"Result({', '.join(f'{name}={getattr(self, name)!r}' for name in names)}, ...)"

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON; `Result.from_dict` undoes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, written: dict[str, Any]) -> "Result":
        """The result that `to_dict` wrote."""
        pairs = {name: [tuple(pair) for pair in written[name]] for name in ("curve", "validation", "left")}
        return cls(**{**written, **pairs})
