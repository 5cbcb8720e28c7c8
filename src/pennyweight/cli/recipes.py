"""`pennyweight recipes`: the named recipes, or what one of them writes how."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from pennyweight.recipes import LinearCasts, Recipe

BACKWARD = {
    "original": "the unwritten tensors",
    "forward": "the forward's written tensors",
    "requantized": "tensors written anew",
    "folded": "the forward's codes",
}
GRAMMAR = """\b
Notation: letters, each with bits or a format, and then how: w4b32ha8g8sm8v8
w a g   weights, activations, gradients of the linear layers
m v     the two moments of Adam
k       what is kept for the backward pass beside the inputs of linear layers
8       bits of an integer, 2 to 8 (of m and v: 8 or 4); or a format:
        e4m3 e5m2 e3m2 e2m3 e2m1 nf4 ternary mxint8; of m and v also
        dynamic8 dynamic4 dynamic_sym8 dynamic_sym4 log8 log4
t c     one scale a tensor, a column; without: a row (of m and v: a block)
bN qN   one scale a block of N, a square of N x N
mx nv   blocks of 32 with powers of two, blocks of 16 with e4m3 scales
s h     stochastic rounding; Hadamard rotation of 32 where the sum runs
One after another: "bf16 until 10%, then w8a8g8, then g8 from 90%" (or steps)
MXFP4 is e2m1mx, NVFP4 is e2m1nv, FP8 is e4m3 or e5m2: we2m1mxae2m1mx"""


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A name or a notation such as w4ca8tg8m8v8.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes, or show what one writes how: which tensor of which product, real or emulated, and why."""
    from pennyweight.recipes import names, recipe

    if name is None:
        told = [(known, sentence(recipe(known))) for known in names()]
        if json:
            print_json([{"name": known, "sentence": said} for known, said in told])
        else:
            print_table(("recipe", "what it writes"), told)
        return
    one = recipe(name)
    if json:
        print_json(described(one))
        return
    lines = one.table()
    print_table(list(lines[0]), [[str(cell) for cell in line.values()] for line in lines], title=str(one))
    for note in one.notes:
        print(note)


def described(recipe: "Recipe") -> dict[str, Any]:
    """A recipe for machines."""
    return {
        "name": str(recipe), "sentence": sentence(recipe), "recipe": recipe.to_dict(), "table": recipe.table(),
        "notes": list(recipe.notes),
    }  # fmt: skip


def sentence(recipe: "Recipe") -> str:
    """What a recipe writes in how few bits, in one sentence, and one for each that follows it."""
    if recipe.then:
        return " ".join(f"{when.capitalize()}: {sentence(one)}" for when, one in recipe.timetable)
    linear = _linear(recipe.linear) if recipe.linear is not None else []
    states = [
        f"moment {slot} in {written}" for slot, written in (("m", recipe.m), ("v", recipe.v)) if written != "fp32"
    ]
    stored = [f"no master weights, stored in {recipe.weights}"] if recipe.weights is not None else []
    kept = [f"what else is kept for the backward pass in {recipe.saved}"] if recipe.saved is not None else []
    told = [*linear, *kept, *states, *stored]
    if not told:
        return f"Nothing is written in few bits: {recipe.precision} products, fp32 weights and states."
    last = ""
    if recipe.last:
        whole = next(blocks for blocks in range(1, 1_000_000) if recipe.plain_blocks(blocks))
        rounded = f", rounded down (none below {whole} blocks)," if whole > 1 else ""
        last = f"; the last {recipe.last:.0%} of the blocks{rounded} stay in {recipe.precision}"
    said = ", ".join(told)
    return f"{said[:1].upper()}{said[1:]}{last}."


def _linear(casts: "LinearCasts") -> list[str]:
    slots = (
        ("weights", casts.output.right), ("activations", casts.output.left),
        ("gradients", casts.grad_input.left or casts.grad_weight.left), ("saved inputs", casts.saved),
    )  # fmt: skip
    told = [f"{name} in {cast}" for name, cast in slots if cast is not None]
    return [*told, f"backward on {BACKWARD[casts.backward]}"] if told else []
