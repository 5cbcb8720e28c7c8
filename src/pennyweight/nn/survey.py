"""Survey: the linear layers of a model, where each stands, what a recipe does with it, how its blocks fit the rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from pennyweight.nn.linear import WrittenConv1D, WrittenLinear
from pennyweight.numerics import Cast
from pennyweight.recipes import PRODUCTS, LinearCasts, ProductName, Recipe
from pennyweight.recipes.operands import SUMMED


@dataclass(frozen=True)
class Line:
    """One linear layer of a model: where it stands, and what a recipe does with it.

    inputs, outputs the channels of its weight [O, I]
    block           the number of its block among num_blocks; None outside the blocks
    counted         whether it belongs to the linear layers that `Conversion.share` is a share of
    casts, why      how it is written (None: it is not), and why
    """

    name: str
    inputs: int
    outputs: int
    block: int | None
    num_blocks: int | None
    is_head: bool
    counted: bool = True
    casts: LinearCasts | None = None
    why: str = ""

    @property
    def multiply_adds(self) -> int:
        """Of one of its products, a token."""
        return self.inputs * self.outputs

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

    def cut(self) -> list[str]:
        """What of the casts does not fit the rows as it stands: blocks and rotations wider than a row, ragged ends."""
        found: dict[str, None] = {}  # X and W are mostly alike: each sentence once, in order
        for product in PRODUCTS[:2]:  # grad_weight sums over tokens, and a model does not know how many
            row, summed = self.inputs if product == "output" else self.outputs, f"{SUMMED[product]}s"
            for _, cast in self._written(product):
                for kind, size in extents(cast):
                    if said := _cut(kind, size, row, summed):
                        found[f"{product}: {said}"] = None
        return list(found)

    def _written(self, product: ProductName) -> Iterator[tuple[str, Cast]]:
        """(tensor, cast) of the operands that this product writes itself."""
        for operand in self.casts.operands(product) if self.casts is not None else ():
            if operand.cast is not None and operand.seen == "cast":
                yield operand.tensor, operand.cast


def extents(cast: Cast) -> list[tuple[str, int]]:
    """(kind, numbers along a row) of a cast's blocks, squares and rotation."""
    scale = cast.scale
    blocks = [(scale.granularity, scale.size)] if scale.granularity in ("block", "square") else []
    return [*blocks, ("rotation", cast.rotation.size)] if cast.rotation is not None else blocks


def _cut(kind: str, size: int, row: int, summed: str) -> str | None:
    """How rows of that length cut a block, square or rotation of that size; None where it fits."""
    rest = row % size
    if kind == "rotation":
        return f"the last {rest} {summed} of a row are not rotated" if rest else None
    if size > row:
        return f"{kind}s of {size} end with the row, after {row} {summed}"
    return f"the last {kind} of a row holds {rest} of {size} {summed}" if rest else None


def check_extents(lines: Sequence[Line], recipe: Recipe, model: nn.Module) -> None:
    """Raises ValueError where X or W has blocks or a rotation wider than the rows of every layer they are written in.

    A row shorter than the block, or a ragged end, in some of the layers is fine, and `Line.cut` tells it: such a block
    has its own scale. One that no layer can hold is another granularity than the one asked for.
    """
    longest: dict[tuple[str, str, int], int] = {}
    for line in lines:
        for tensor, cast in line._written("output"):
            for kind, size in extents(cast):
                key = (tensor, kind, size)
                longest[key] = max(longest.get(key, 0), line.inputs)
    for (tensor, kind, size), row in longest.items():
        if size > row > 0 and kind != "square":
            raise ValueError(
                f"recipe {recipe} writes {tensor} with {kind}s of {size}, but no row of {type(model).__name__} is so "
                f"long, the longest has {row} in channels; take {kind}s of at most {row}, or none, one scale a row"
            )


def survey(model: nn.Module, modules: Mapping[str, nn.Module], recipe: Recipe) -> list[Line]:
    """A line for every nn.Linear (subclasses too) and Conv1D, in the order of the model, as the recipe decides."""
    head = head_of(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    places = blocks_of(model)
    lines = []
    for name, module in modules.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        outputs, inputs = reversed(weight.shape) if isinstance(module, Conv1D) else weight.shape
        is_head = module is head or id(weight) in embeddings or name.rpartition(".")[2] == "lm_head"
        block, num_blocks = next(
            (place for prefix, place in places.items() if f"{name}.".startswith(prefix)), (None, None)
        )
        lines.append(_decided(Line(name, inputs, outputs, block, num_blocks, is_head), module, recipe))
    in_blocks = any(line.block is not None for line in lines)
    return [replace(line, counted=line.block is not None if in_blocks else not line.is_head) for line in lines]


def _decided(line: Line, module: nn.Module, recipe: Recipe) -> Line:
    casts, why = recipe.choice(line.name, block=line.block, num_blocks=line.num_blocks, is_head=line.is_head)
    if casts is not None and type(module) not in (nn.Linear, Conv1D, WrittenLinear, WrittenConv1D):
        reader = (
            "MultiheadAttention reads" if isinstance(module, NonDynamicallyQuantizableLinear) else "others may read"
        )
        kind = type(module).__name__
        return replace(line, why=f"{kind} is a subclass of Linear: {reader} its weight without calling it")
    return replace(line, casts=casts, why=why)


def head_of(model: nn.Module) -> nn.Module | None:
    """The layer that a transformers model says its logits come from."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return head if isinstance(head, nn.Module) else None


def blocks_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Prefix of each block -> (its number, how many there are): the outermost ModuleLists with linear layers inside."""
    places: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(prefix) for prefix in places):
            continue
        if any(map(is_linear, module.modules())):
            dot = f"{name}." if name else ""
            places |= {f"{dot}{number}.": (number, len(module)) for number in range(len(module))}
            places |= {
                f"{dot}{number}": (number, len(module)) for number in range(len(module)) if is_linear(module[number])
            }
    return places


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, of a kind that is converted or not."""
    return isinstance(module, nn.Linear | Conv1D)


def others(model: nn.Module) -> list[tuple[str, str]]:
    """(name, why) of the modules with parameters of their own that are no linear layers."""
    left = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or is_linear(module):
            continue
        kind = type(module).__name__
        if isinstance(module, nn.Embedding):
            why = "an embedding is looked up, not multiplied"
        elif isinstance(module, nn.MultiheadAttention):
            why = f"{kind} holds the weights of q, k and v as bare parameters, in no linear layer"
        elif "norm" in kind.lower():
            why = f"{kind} has no product"
        elif any(parameter.dim() == 3 for parameter in own):
            why = f"{kind} holds a stack of weights (experts) outside any linear layer"
        else:
            why = f"{kind} multiplies its parameters, if at all, without a linear layer"
        left.append((name, why))
    return left
