"""Convert: which layers of a model are written by a recipe, which are left, and why."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn.linear import Layer, Shared, WrittenConv1D, WrittenLinear
from pennyweight.nn.plain import save_plain
from pennyweight.numerics import Counter
from pennyweight.recipes import PRODUCTS, LinearCasts, Recipe
from pennyweight.recipes import recipe as named

WRITTEN = {nn.Linear: WrittenLinear, Conv1D: WrittenConv1D}
FOREIGN = ("torchao", "bitsandbytes", "transformer_engine")


@dataclass(frozen=True)
class Line:
    """One linear layer of a model: where it stands, and what a recipe does with it.

    multiply_adds   of one of its products, a token
    block           the number of its block among num_blocks; None outside the blocks
    counted         whether it belongs to the linear layers that `Conversion.share` is a share of
    casts, why      how it is written (None: it is not), and why
    """

    name: str
    multiply_adds: int
    block: int | None
    num_blocks: int | None
    is_head: bool
    counted: bool = True
    casts: LinearCasts | None = None
    why: str = ""

    def wide_products(self, bits: int) -> list[str]:
        """The products with an operand of more than `bits` bits, or unwritten."""
        if self.casts is None:
            return list(PRODUCTS)
        pairs = {product: self.casts.operands(product) for product in PRODUCTS}
        return [
            product
            for product, pair in pairs.items()
            if any(operand.cast is None or operand.cast.format.bits > bits for operand in pair)
        ]


@dataclass
class Conversion:
    """What `quantize` did: names of the layers converted, (name, why) of what was left, and the noise counter."""

    recipe: Recipe
    counter: Counter
    converted: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    _parameters: list[tuple[str, ref]] = field(default_factory=list, repr=False)

    def share(self, bits: int) -> dict[str, float]:
        """For each product, the share of the multiply-adds of the blocks' linear layers with both operands in <= bits.

        Where the model has no list of blocks, all linear layers but the head count.
        """
        counted = [line for line in self.lines if line.counted]
        total = max(1, sum(line.multiply_adds for line in counted))
        wide = [(line.multiply_adds, line.wide_products(bits)) for line in counted]
        return {p: sum(adds for adds, products in wide if p not in products) / total for p in PRODUCTS}

    def four_bit_share(self) -> dict[str, float]:
        """`share(4)`."""
        return self.share(4)

    def exceptions(self, bits: int) -> list[tuple[str, str]]:
        """(name, why) of every linear layer of the blocks that has a product with an operand wider than `bits`."""
        wide = [(line, line.wide_products(bits)) for line in self.lines if line.counted]
        return [(line.name, f"{', '.join(products)}: {line.why}") for line, products in wide if products]

    def table(self) -> str:
        """Every linear layer and what happens to it, then all else that stays as it is, as plain text."""
        lines = [f"{self.recipe}: {len(self.converted)} linear layers converted, {len(self.left)} modules left"]
        if not self.converted:
            plain = self.recipe.linear is None and not self.recipe.rules
            why = "the recipe leaves linear layers plain" if plain else "each says below why it is left"
            lines.append(f"no layer is written: {why}")
        names = [*self.converted, *(name for name, _ in self.left)]
        width = max(map(len, names), default=0)
        casts = {line.name: line.casts for line in self.lines}
        for name in self.converted:
            chosen = casts[name]
            assert chosen is not None
            ways = ", ".join(f"{product} {chosen.way_of(product)[0]}" for product in PRODUCTS)
            written = f"x {chosen.output.left}, w {chosen.output.right}, backward {chosen.backward}"
            lines.append(f"  {name:<{width}}  {written}; {ways}")
        lines += [f"  {name:<{width}}  left: {why}" for name, why in self.left]
        return "\n".join(lines)

    def __str__(self) -> str:
        """`table()`: what `print(pennyweight.quantize(model, recipe))` says."""
        return self.table()

    def stamp(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        """Gives every parameter its name in the noise and the counter; an optimizer reads both."""
        for name, parameter in parameters:
            parameter.pennyweight_name = name  # type: ignore[attr-defined]  # a stamp, not torch's
            parameter.pennyweight_counter = self.counter  # type: ignore[attr-defined]
        self._parameters = [(name, ref(parameter)) for name, parameter in parameters]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Conversion":
        """Of a copied model: its own counter, and its own parameters stamped again (torch drops their attributes)."""
        copy = Conversion(
            self.recipe, deepcopy(self.counter, memo), list(self.converted), list(self.left), list(self.lines)
        )
        pairs = [(name, memo.get(id(alive()))) for name, alive in self._parameters]
        copy.stamp([(name, parameter) for name, parameter in pairs if parameter is not None])
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parameters": []}  # a stamp travels with its parameter


class MicroBatches:
    """Counts forward passes that will be trained on; a recomputed block or a second backward pass is none."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def __call__(self, module: nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled():
            count(self.counter)


def _count(counter: Counter) -> None:
    counter.micro_batch += 1


count: Callable[[Counter], None] = torch.compiler.disable(_count)  # type: ignore[assignment]  # compiled models too


def quantize(model: nn.Module, recipe: Recipe | str, *, seed: int = 0) -> Conversion:
    """Converts the linear layers of a model in place and says what was converted, what was left, and why.

    Exactly torch.nn.Linear and transformers' Conv1D are converted, by changing their class: parameters keep identity,
    so tied heads stay tied and an optimizer made before stays valid. `seed` starts the noise of stochastic casts. A
    transformers model saves from now on its weights as the recipe writes them (`save_pretrained`).

    Raises ValueError for an unknown recipe, a rule that matches no layer, a model already converted, by us or by
    torchao, bitsandbytes or TransformerEngine, and a model without linear layers under a recipe that writes them.
    """
    recipe = named(recipe)
    _refuse(model)
    modules = {name: module for name, module in model.named_modules() if _is_linear(module)}
    recipe.check_rules(modules)
    if recipe.linear is not None and not modules:
        raise ValueError(f"recipe {recipe} writes linear layers, but {type(model).__name__} has none")
    lines = [_decided(line, modules[line.name], recipe) for line in _survey(model, modules)]
    conversion = Conversion(recipe, Counter(seed=seed), lines=lines)
    shared = Shared(conversion.counter)
    for line in lines:
        if line.casts is None:
            conversion.left.append((line.name, line.why))
        else:
            module = modules[line.name]
            module.__class__ = WRITTEN[type(module)]
            module.layer = Layer(line.casts, line.name, shared)  # type: ignore[assignment]  # not a submodule
            conversion.converted.append(line.name)
    conversion.left += _others(model)
    conversion.stamp(list(model.named_parameters()))
    _attach(model, conversion)
    return conversion


def _attach(model: nn.Module, conversion: Conversion) -> None:
    model.pennyweight_conversion = conversion  # type: ignore[assignment]
    model.register_forward_pre_hook(MicroBatches(conversion.counter))
    if hasattr(model, "save_pretrained"):
        model.save_pretrained = partial(save_plain, model)  # type: ignore[assignment]
    for module in model.modules():
        # In evaluation these two read weights without calling the layers; a hook, and no nested tensors, stop that.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.register_forward_pre_hook(_calls_its_layers)
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _calls_its_layers(module: nn.Module, args: Any) -> None:
    """Does nothing: torch's fused encoder layer is not taken where a hook is attached."""


def _decided(line: Line, module: nn.Module, recipe: Recipe) -> Line:
    casts, why = recipe.choice(line.name, block=line.block, num_blocks=line.num_blocks, is_head=line.is_head)
    if casts is not None and type(module) not in WRITTEN:
        kind = type(module).__name__
        return replace(line, why=f"{kind} is a subclass of Linear: its weight may be read without calling it")
    return replace(line, casts=casts, why=why)


def _refuse(model: nn.Module) -> None:
    if type(model).__name__ == "OptimizedModule":
        raise ValueError("quantize takes the model before torch.compile, got a compiled one")
    for name, module in model.named_modules():
        if isinstance(module, tuple(WRITTEN.values())):
            raise ValueError(
                f"the model is already converted: {name} is written; build it anew to convert it otherwise"
            )
        types = [type(module), *(type(p) for p in module.parameters(recurse=False))]
        for kind in types:
            library = kind.__module__.partition(".")[0]
            if library in FOREIGN:
                raise ValueError(f"the model is already converted by {library}: {name} holds a {kind.__name__}")
    if hasattr(model, "pennyweight_conversion"):
        raise ValueError("the model is already converted; build it anew to convert it otherwise")


def _survey(model: nn.Module, modules: dict[str, nn.Module]) -> list[Line]:
    """A line for every nn.Linear (subclasses too) and Conv1D, in the order of the model."""
    head = _head(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    places = _blocks(model)
    lines = []
    for name, module in modules.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        is_head = module is head or id(weight) in embeddings or name.rpartition(".")[2] == "lm_head"
        block, num_blocks = next(
            (place for prefix, place in places.items() if f"{name}.".startswith(prefix)), (None, None)
        )
        lines.append(Line(name, weight.numel(), block, num_blocks, is_head))
    in_blocks = any(line.block is not None for line in lines)
    return [replace(line, counted=line.block is not None if in_blocks else not line.is_head) for line in lines]


def _head(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return head if isinstance(head, nn.Module) else None


def _blocks(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Prefix of each block -> (its number, how many there are): the outermost ModuleLists with linear layers inside."""
    places: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(prefix) for prefix in places):
            continue
        if any(map(_is_linear, module.modules())):
            dot = f"{name}." if name else ""
            places |= {f"{dot}{number}.": (number, len(module)) for number in range(len(module))}
            places |= {
                f"{dot}{number}": (number, len(module)) for number in range(len(module)) if _is_linear(module[number])
            }
    return places


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _others(model: nn.Module) -> list[tuple[str, str]]:
    """(name, why) of the modules with parameters of their own that are no linear layers."""
    left = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or _is_linear(module):
            continue
        kind = type(module).__name__
        if isinstance(module, nn.Embedding):
            why = "an embedding is looked up, not multiplied"
        elif "norm" in kind.lower():
            why = f"{kind} has no product"
        elif any(parameter.dim() == 3 for parameter in own):
            why = f"{kind} holds a stack of weights (experts) outside any linear layer"
        else:
            why = f"{kind} multiplies its parameters, if at all, without a linear layer"
        left.append((name, why))
    return left
