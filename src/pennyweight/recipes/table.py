"""Table: a recipe as rows a person can read: which tensor is written how, in real or emulated products, and why."""

from pennyweight.numerics import Cast
from pennyweight.recipes.linear import LinearCasts
from pennyweight.recipes.operands import PRODUCTS, SUMMED, Operand, ProductName

COLUMNS = ("layers", "product", "operand", "tensor", "format", "granularity", "rounding", "rotation", "way", "why")
EQUATION = {"output": "Y = X W^T", "grad_input": "dX = G W", "grad_weight": "dW = G^T X"}
LEAVES = {
    "X": "token",
    "W": "out channel",
    "G": "token",
    "W^T": "in channel",
    "G^T": "out channel",
    "X^T": "in channel",
}
UNTURNED = {"W^T": "W", "X^T": "X"}


def linear_rows(casts: LinearCasts, *, layers: str, precision: str) -> list[dict[str, str]]:
    """Six rows for the operands of the three products, and one for the input kept for the backward pass."""
    rows = []
    for product in PRODUCTS:
        way, why = casts.way_of(product)
        for side, operand in zip(("left", "right"), casts.operands(product), strict=True):
            written = operand_cells(operand, product, precision)
            rows.append(row(layers, product, side, EQUATION[product], written, way, why))
    saved, why = saved_cells(casts, precision)
    rows.append(row(layers, "saved", "input", "saved X", saved, "stored", why))
    return rows


def operand_cells(operand: Operand, product: ProductName, precision: str) -> dict[str, str]:
    """The cells that say how one operand is written."""
    if operand.cast is None:
        return {"tensor": operand.tensor, **plain(precision)}
    cells = cast_cells(operand.cast, leaves=LEAVES[operand.tensor], summed=SUMMED[product])
    if operand.seen == "cast":
        return {"tensor": operand.tensor, **cells}
    forward = UNTURNED[operand.tensor]
    cells = cast_cells(operand.cast, leaves=LEAVES[forward], summed="in channel")
    fate = ", folded into G" if operand.seen == "folded" else ", as in the forward"
    cells["granularity"] += fate
    return {"tensor": operand.tensor, **cells, "rounding": "codes of the forward"}


def saved_cells(casts: LinearCasts, precision: str) -> tuple[dict[str, str], str]:
    """How the input kept for the backward pass is written, and why so."""
    if casts.saved is not None:
        return cast_cells(casts.saved, leaves="token", summed="in channel"), "written for the backward pass"
    if casts.output.left is None or casts.backward in ("original", "requantized"):
        return plain(precision), "the backward pass reads X unwritten"
    return cast_cells(casts.output.left, leaves="token", summed="in channel"), "the codes of the forward, kept"


def cast_cells(cast: Cast, *, leaves: str, summed: str) -> dict[str, str]:
    """Format, granularity, rounding and rotation of a cast; `leaves` and `summed` name its rows and columns."""
    scale = cast.scale
    granularity = {
        "tensor": "tensor",
        "row": f"row: one scale per {leaves}",
        "column": f"column: one scale per {summed}",
        "block": f"blocks of {scale.block} {summed}s",
        "square": f"squares of {scale.block} x {scale.block}",
    }[scale.granularity]
    if scale.number != "fp32":
        granularity += f", {scale.number} scales"
    rotation = "-" if cast.rotation is None else f"Hadamard {cast.rotation.size}"
    return {"format": cast.format.name, "granularity": granularity, "rounding": cast.rounding, "rotation": rotation}


def plain(precision: str) -> dict[str, str]:
    """The cells of a tensor that is not written."""
    return {"format": precision, "granularity": "-", "rounding": "-", "rotation": "-"}


def row(
    layers: str, product: str, operand: str, tensor: str, cells: dict[str, str], way: str, why: str
) -> dict[str, str]:
    """One row of the table; `tensor` is the equation for a product, the cells then name the tensor."""
    name = cells.get("tensor", tensor)
    values = {**plain("-"), **cells, "layers": layers, "product": product, "operand": operand, "way": way, "why": why}
    values["tensor"] = f"{name} of {tensor}" if name != tensor else name
    return {column: values[column] for column in COLUMNS}
