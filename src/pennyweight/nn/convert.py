"""Convert: which layers of a model are written by a recipe, which are left, and why."""

from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ref

from torch import nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn.activation_functions import replace_activation_functions
from pennyweight.nn.attention import faster_attention
from pennyweight.nn.layer import Layer
from pennyweight.nn.linear import WrittenConv1D, WrittenLinear
from pennyweight.nn.passes import MicroBatches
from pennyweight.nn.plain import save_plain
from pennyweight.nn.saved import Saved
from pennyweight.nn.shared import Shared
from pennyweight.nn.survey import Line, check_extents, is_linear, others, survey
from pennyweight.nn.undone import undo
from pennyweight.numerics import Counter, Stored, stored_of
from pennyweight.recipes import PRODUCTS, LinearCasts, Recipe, kept_between
from pennyweight.recipes import recipe as named
from pennyweight.spelling import check_kind

WRITTEN = {nn.Linear: WrittenLinear, Conv1D: WrittenConv1D}
FOREIGN = ("torchao", "bitsandbytes", "transformer_engine")


@dataclass
class Conversion:
    """What `quantize` did: names of the layers converted, (name, why) of what was left, and the noise counter.

    between  (name, how) of what lies between the layers and is computed by our own operators
    saved    what writes that which is kept for the backward pass beside the inputs of layers; None: nothing does
    layers_only  whether what lies between the layers was left alone, as `quantize` was asked
    """

    recipe: Recipe
    counter: Counter
    converted: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    between: list[tuple[str, str]] = field(default_factory=list)
    saved: Saved | None = None
    layers_only: bool = False
    _parameters: list[tuple[str, ref]] = field(default_factory=list, repr=False)

    def share(self, bits: int) -> dict[str, float]:
        """For each product, the share of the multiply-adds of the blocks' linear layers with both operands in <= bits.

        Where the model has no list of blocks, all linear layers but the head count.
        """
        counted = [line for line in self.lines if line.counted]
        total = max(1, sum(line.multiply_adds for line in counted))
        wide = [(line.multiply_adds, line.wide_products(bits)) for line in counted]
        return {p: sum(adds for adds, products in wide if p not in products) / total for p in PRODUCTS}

    def exceptions(self, bits: int) -> list[tuple[str, str]]:
        """(name, why) of every linear layer of the blocks that has a product with an operand wider than `bits`."""
        wide = [(line, line.wide_products(bits)) for line in self.lines if line.counted]
        return [(line.name, f"{', '.join(products)}: {line.why}") for line, products in wide if products]

    def table(self) -> str:
        """Every linear layer and what happens to it, then all else that stays as it is, as plain text."""
        lines = [f"{self.recipe}: {len(self.converted)} linear layers converted, {len(self.left)} modules left"]
        if not self.converted:
            lines.append("no layer is written: the recipe leaves linear layers plain")
        if self.recipe.last and all(line.block is None for line in self.lines):
            said = f"the last {self.recipe.last:.0%} of the blocks would stay plain"
            lines.append(f"{said}, but the model has no list of blocks (nn.ModuleList): none does")
        names = [*self.converted, *(name for name, _ in self.left)]
        width = max(map(len, [*names, *(name for name, _ in self.between)]), default=0)
        every = {line.name: line for line in self.lines}
        for name in self.converted:
            chosen = every[name].casts
            assert chosen is not None
            ways = ", ".join(f"{product} {chosen.way_of(product)[0]}" for product in PRODUCTS)
            written = f"x {chosen.output.left}, w {chosen.output.right}, backward {chosen.backward}"
            lines.append("; ".join([f"  {name:<{width}}  {written}", ways, *every[name].cut()]))
        lines += [f"  {name:<{width}}  {how}" for name, how in self.between]
        if self.saved is not None:
            lines.append(f"  all else that is kept for the backward pass is kept in {self.saved.cast}")
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
            self.recipe,
            deepcopy(self.counter, memo),
            list(self.converted),
            list(self.left),
            list(self.lines),
            list(self.between),
            deepcopy(self.saved, memo),
            self.layers_only,
        )
        pairs = [(name, memo.get(id(alive()))) for name, alive in self._parameters]
        copy.stamp([(name, parameter) for name, parameter in pairs if parameter is not None])
        for _, alive in self._parameters:
            original = alive()
            if (stored := stored_of(original)) is not None and id(original) in memo:
                deepcopy(stored, memo).stamp(memo[id(original)])
        return copy

    @property
    def swallowed_share(self) -> float | None:
        """Of the numbers that the last update moved, the share whose codes stayed; None: every weight has a master."""
        every = [stored for _, alive in self._parameters if (stored := stored_of(alive())) is not None]
        return sum(one.swallowed for one in every) / max(1, sum(one.moved for one in every)) if every else None

    def __getstate__(self) -> dict[str, Any]:
        alive = [(name, parameter()) for name, parameter in self._parameters]
        return {**self.__dict__, "_parameters": [(name, one) for name, one in alive if one is not None]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _parameters=[(name, ref(parameter)) for name, parameter in state["_parameters"]])


def quantize(model: nn.Module, recipe: Recipe | str, *, seed: int = 0, layers_only: bool = False) -> Conversion:
    """Converts the linear layers of a model in place and says what was converted, what was left, and why.

    Exactly torch.nn.Linear and transformers' Conv1D are converted, by changing their class: parameters keep identity,
    so tied heads stay tied and an optimizer made before stays valid. `seed` starts the noise of stochastic casts. A
    transformers model saves from now on its weights as the recipe writes them (`save_pretrained`).

    Where products are computed on codes, what lies between the layers goes faster too, unless `layers_only`: SiLU and
    the GELUs in one pass over memory (`OnePass`), with slopes kept in 8 bits where the inputs of layers are, and
    attention of transformers models in tiles (`faster_attention`).

    Raises TypeError for what is no module; ValueError for an unknown recipe, several in turn (see `requantize`), a rule
    that matches no layer, blocks that no layer can hold, a model already converted, by us or by torchao, bitsandbytes
    or TransformerEngine, and a model without linear layers that can be converted under a recipe that writes them.
    """
    recipe = _one(recipe)
    check_kind("the model that quantize converts", model, nn.Module, "a torch.nn.Module")
    _refuse(model)
    conversion = _convert(model, recipe, decided(model, recipe), Counter(seed=seed), layers_only=layers_only)
    _keep_from_fusing(model)
    return conversion


def requantize(model: nn.Module, recipe: Recipe | str) -> Conversion:
    """Writes a converted model by another recipe from now on, in place, and says what is converted now.

    Parameters keep identity and names, and the noise its counter, so a training goes on where it was: give its
    optimizer's states to one that writes them otherwise with `AdamW.take_over`. Weights that were their codes alone
    become a master copy of the same numbers where the new recipe keeps one; where it keeps codes, and none were, the
    weights are written now, to nearest.

    Raises ValueError, before anything has changed, for a model that is not converted, has compiled blocks, or that the
    recipe does not fit (see `quantize`).
    Ancestor: the same recipe changes nothing, bit for bit; from bf16, `quantize` of the model as it stands.
    """
    recipe = _one(recipe)
    before: Conversion | None = getattr(model, "pennyweight_conversion", None)
    if before is None:
        raise ValueError(f"requantize takes a model that quantize has converted, got a plain {type(model).__name__}")
    if recipe == before.recipe:
        return before
    if any(module._compiled_call_impl is not None for module in model.modules()):
        raise ValueError(f"requantize cannot write by {recipe} what torch.compile has compiled; switch before, or not")
    lines = decided(model, recipe)
    undo(model, kept={line.name: line.casts.output.right for line in lines if line.casts and recipe.stores(line.casts)})
    return _convert(model, recipe, lines, before.counter, layers_only=before.layers_only)


def _one(recipe: Recipe | str) -> Recipe:
    """The one recipe that is meant. Errors: ValueError for several in turn."""
    recipe = named(recipe)
    if recipe.then:
        raise ValueError(
            f"a model is written by one recipe at a time, got the schedule {str(recipe)!r}; quantize by the first of "
            "its phases, then requantize"
        )
    return recipe


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def decided(model: nn.Module, recipe: Recipe) -> list[Line]:
    """What one recipe does with every linear layer of a model. Errors: ValueError where it does not fit the model."""
    modules = _linear_layers(model)
    recipe.check_rules(modules)
    lines = survey(model, modules, recipe)
    _check_written(lines, recipe, model)
    check_extents(lines, recipe, model)
    return lines


def _convert(model: nn.Module, recipe: Recipe, lines: list[Line], counter: Counter, *, layers_only: bool) -> Conversion:
    saved = None if recipe.saved is None else Saved(recipe.saved)
    conversion = Conversion(recipe, counter, lines=lines, saved=saved, layers_only=layers_only)
    shared, modules = Shared(counter), _linear_layers(model)
    for line in lines:
        if line.casts is None:
            conversion.left.append((line.name, line.why))
        else:
            module = modules[line.name]
            module.__class__ = WRITTEN[type(module)]
            stored = _stored(model, module, line.casts, recipe)
            module.layer = Layer(line.casts, line.name, shared, stored)  # type: ignore[assignment]  # not a submodule
            conversion.converted.append(line.name)
    if not layers_only:
        conversion.between += _hasten(model, [line.casts for line in lines if line.casts is not None])
    conversion.left += others(model)
    conversion.stamp(list(model.named_parameters()))
    _attach(model, conversion, shared)
    return conversion


def _hasten(model: nn.Module, casts: list[LinearCasts]) -> list[tuple[str, str]]:
    """Computes by our own operators what lies between layers that multiply codes: (name, how) of each such module."""
    kept = kept_between(casts)
    if kept is None:
        return []
    how = "in one pass over memory, " + ("its slopes kept in 8 bits" if kept == "slopes" else "its input kept")
    done = [(name, how) for name in replace_activation_functions(model, slopes=kept == "slopes")]
    if count := faster_attention(model):
        done.append(("attention", f"of {count} modules in tiles, where their inputs are bf16 and nothing is masked"))
    return done


def _stored(model: nn.Module, module: nn.Module, casts: LinearCasts, recipe: Recipe) -> Stored | None:
    """The weight as its codes alone, where the recipe stores it so and no other module reads it."""
    weight, cast = module.weight, casts.output.right
    if cast is None or not recipe.stores(casts):
        return None
    if isinstance(weight, nn.Parameter) and (stored := stored_of(weight)) is not None:
        return stored  # by this very cast, from the recipe before
    readers = [one for one in model.modules() if any(p is weight for p in one.parameters(recurse=False))]
    return Stored.of(module, cast, turned=isinstance(module, Conv1D)) if len(readers) == 1 else None


def _attach(model: nn.Module, conversion: Conversion, shared: Shared) -> None:
    model.pennyweight_conversion = conversion  # type: ignore[assignment]
    model.register_forward_pre_hook(MicroBatches(conversion.counter))
    if conversion.converted:
        model.register_forward_pre_hook(shared.begin)
        model.register_forward_hook(shared.end, always_call=True)
    if conversion.saved is not None:
        # torch types what `compiler.disable` gives for functions, not for methods
        model.register_forward_pre_hook(conversion.saved.begin)  # type: ignore[attr-defined]
        model.register_forward_hook(conversion.saved.end, always_call=True)  # type: ignore[attr-defined]
    if hasattr(model, "save_pretrained"):
        model.save_pretrained = partial(save_plain, model)  # type: ignore[assignment]


def _keep_from_fusing(model: nn.Module) -> None:
    for module in model.modules():
        # In evaluation these two read weights without calling the layers; a hook, and no nested tensors, stop that.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.register_forward_pre_hook(_calls_its_layers)
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _calls_its_layers(module: nn.Module, args: Any) -> None:
    """Does nothing: torch's fused encoder layer is not taken where a hook is attached."""


def _check_written(lines: list[Line], recipe: Recipe, model: nn.Module) -> None:
    """Raises ValueError where a recipe that writes linear layers finds none that it can write, saying why of each."""
    wanted = recipe.linear is not None or any(rule.linear is not None for rule in recipe.rules)
    if not wanted or any(line.casts is not None for line in lines):
        return
    whys = [f"{name or 'itself'}: {why}" for name, why in [*((line.name, line.why) for line in lines), *others(model)]]
    more = f"; and {len(whys) - 3} more" if len(whys) > 3 else ""
    told = f" that can be converted ({'; '.join(whys[:3])}{more})" if whys else ""
    raise ValueError(f"recipe {recipe} writes linear layers, but {type(model).__name__} has none{told}")


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
