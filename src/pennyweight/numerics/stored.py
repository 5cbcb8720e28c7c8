"""Stored: a weight that is its codes and nothing else, without a master copy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from pennyweight.numerics.casts import Cast, Quantized

CHUNK = 1 << 17  # numbers rewritten at once: a few float32 temporaries of them stay in second-level cache
CODES, SCALES = "weight_codes", "weight_scales"  # the layer's buffers


@dataclass(eq=False)
class Stored:
    """The weight W [O, I] of a layer as int8 codes and one scale a row, held in two buffers of the layer.

    The layer's `weight` stays a parameter of the same shape that takes gradients, but holds one number: what autograd
    and an optimizer need of a parameter, without its memory. It carries this value as `pennyweight_stored`.

    W = codes * scales, exactly;  after `rewrite(work)` W is `work` written by the cast, each row with its new scale.

    turned: the codes lie as [I, O].
    An optimizer that knows such weights says so (`moves_codes = True`); any other is refused at its first step.
    Costs:  one byte a number and four a row; a float32 copy of the weight while it is rewritten, none in C++.
    """

    layer: nn.Module
    cast: Cast  # rounds to nearest; an optimizer rounds as it is told
    turned: bool = False
    swallowed: int = field(default=0, init=False)  # numbers that the last rewriting left as they were, told to move
    moved: int = field(default=0, init=False)  # numbers that it was told to move
    hooks: list[RemovableHandle] = field(default_factory=list, init=False, repr=False)  # of the layer

    @classmethod
    @torch.no_grad()
    def of(cls, layer: nn.Module, cast: Cast, *, turned: bool) -> "Stored":
        """Writes `layer.weight` and lets go of it; the parameter itself stays the same object."""
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        stored = cls(layer, cast, turned)
        _guard()
        for name, tensor in stored.write(weight).items():
            layer.register_buffer(name, tensor)
        stored.stamp(weight)
        stored.hooks += [
            layer.register_state_dict_post_hook(_without_weight),
            layer.register_load_state_dict_pre_hook(_with_codes),
        ]
        return stored

    @torch.no_grad()
    def release(self) -> None:
        """Turns the codes into a master copy: the layer's parameter, the same object, holds its own numbers again."""
        weight = self.layer.weight
        assert isinstance(weight, nn.Parameter)
        weight.data = self.values().to(weight.dtype)
        del weight.pennyweight_stored  # type: ignore[attr-defined]
        for hook in self.hooks:
            hook.remove()
        for name in (CODES, SCALES):
            delattr(self.layer, name)

    def write(self, weight: Tensor) -> dict[str, Tensor]:
        """The buffers that hold a weight, which lies as the parameter does."""
        written = self.cast.write(weight.T if self.turned else weight)
        codes = written.codes.T.contiguous() if self.turned else written.codes
        return {CODES: codes, SCALES: written.scales.view(-1)}

    def stamp(self, weight: nn.Parameter) -> None:
        """Makes a parameter the one that stands for this weight."""
        weight.data = torch.zeros((), dtype=weight.dtype, device=weight.device).expand(weight.shape)
        weight.pennyweight_stored = self  # type: ignore[attr-defined]  # a stamp, not torch's

    def check(self, weight: Tensor) -> None:
        """Raises ValueError for a parameter into whose `.data` numbers were put, which nobody would read."""
        if stored_of(weight) is self and any(weight.stride()):
            name = getattr(weight, "pennyweight_name", "a weight")
            raise ValueError(
                f"{name} is int8 codes without a master copy, so numbers put into its .data move nothing; give them to "
                "load_state_dict, which writes them"
            )

    @property
    def codes(self) -> Tensor:
        """As they lie: [O, I], or [I, O] if turned."""
        return getattr(self.layer, CODES)

    @property
    def scales(self) -> Tensor:
        """[O], float32: powers of two, which a model turned to bfloat16 still holds exactly."""
        return getattr(self.layer, SCALES).to(torch.float32)

    def keep_scales(self, scales: Tensor) -> None:
        """Takes new scales [O], float32, where they are not those of the buffer itself."""
        own: Tensor = getattr(self.layer, SCALES)
        if own is not scales:
            own.copy_(scales)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the scales."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def written(self) -> Quantized:
        """W [O, I] as the cast wrote it."""
        codes = self.codes.T if self.turned else self.codes
        return Quantized(codes, self.scales.view(-1, 1), None, None, tuple(codes.shape), self.cast)

    @torch.no_grad()
    def values(self) -> Tensor:
        """The weight in float32, as the parameter lies; ValueError as for `check`."""
        self.check(getattr(self.layer, "weight"))  # noqa: B009 (a module's attribute may be anything)
        return self.codes * (self.scales if self.turned else self.scales.view(-1, 1))

    def plain(self, state: dict[str, Tensor], prefix: str) -> Tensor:
        """The weight in float32 that a state dict holds as codes, which are taken out of it."""
        codes, scales = state.pop(f"{prefix}{CODES}"), state.pop(f"{prefix}{SCALES}")
        return codes * (scales if self.turned else scales.view(-1, 1))

    @torch.no_grad()
    def rewrite(self, work: Tensor, cast: Cast, key: int | None) -> None:
        """Writes `work`, which lies as the parameter does, by a cast of the same format and scale; counts stalls.

        The noise is counted along W [O, I], whichever way it lies.
        """
        fresh, codes = (work.T, self.codes.T) if self.turned else (work, self.codes)
        self.swallowed = self.moved = 0
        scales: Tensor = getattr(self.layer, SCALES)
        for rows in _chunks(*fresh.shape):
            part, old = fresh[rows], codes[rows] * self.scales[rows, None]
            again = cast.write(part, key, rows.start * fresh.shape[1])
            moves = part != old
            self.moved += int(moves.sum())
            self.swallowed += int((moves & (again.codes * again.scales == old)).sum())
            codes[rows] = again.codes
            scales[rows] = again.scales.view(-1).to(scales.dtype)


def stored_of(parameter: Tensor | None) -> Stored | None:
    """The codes that a parameter stands for; None for one that holds its own numbers."""
    return getattr(parameter, "pennyweight_stored", None)


def held_bytes(parameter: Tensor) -> int:
    """What a parameter holds: its numbers, or the codes it stands for."""
    stored = stored_of(parameter)
    return parameter.nbytes if stored is None else stored.nbytes


@cache
def _guard() -> None:
    """From now on torch asks before each step: a fused optimizer would write past the one number that is there."""
    register_optimizer_step_pre_hook(_refuse)


def _refuse(optimizer: Optimizer, *rest: object) -> None:
    if getattr(optimizer, "moves_codes", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if stored_of(parameter) is not None:
                name = getattr(parameter, "pennyweight_name", "a weight")
                raise TypeError(
                    f"{name} is int8 codes without a master copy, which {type(optimizer).__name__} cannot move; "
                    "use pennyweight.optim.AdamW, or a recipe that keeps master weights"
                )


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, CHUNK // max(1, columns))
    return (slice(start, min(rows, start + height)) for start in range(0, rows, height))


def _without_weight(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Leaves the parameter out of a state dict, which holds the codes."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if (stored := stored_of(weight)) is not None:
        stored.check(weight)
    del state[f"{prefix}weight"]


def _with_codes(layer: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Writes a weight that a state dict holds plainly, and takes it out; the parameter stands for what is loaded."""
    parameter = layer.weight
    assert isinstance(parameter, nn.Parameter)
    weight, stored = state.pop(f"{prefix}weight", None), stored_of(parameter)
    if stored is not None:
        stored.stamp(parameter)
    if weight is not None and stored is not None and f"{prefix}{CODES}" not in state:
        state |= {f"{prefix}{name}": tensor for name, tensor in stored.write(weight).items()}
