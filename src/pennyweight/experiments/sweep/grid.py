"""Grid: axes times seeds as cells, each a run of its own; all are built, and those that cannot be told, beforehand."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product

from pennyweight.experiments.sweep.axes import COMPONENTS, Axis, settings_of, written
from pennyweight.training import Checkpoint, Run, check, resolved, with_settings

CHECKPOINTS = 10  # a run, unless checkpoint.every says otherwise: a killed cell goes on from the last one


class CellsNotBuilt(ValueError):
    """Some cells of a grid cannot be built; `reasons` holds a sentence for each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class Cell:
    """One run of a grid and the values of the axes that made it."""

    axes: tuple[tuple[str, str], ...]
    run: Run  # resolved

    @property
    def id(self) -> str:
        """The hash of the run: equal cells are one, in whatever grid they stand."""
        return sha256(json.dumps(self.run.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What tells the cell from others, its seed left out."""
        return label(str(self.run.recipe), self.axes)

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", self.label)[:60].strip("._")
        return f"{safe}-seed{self.run.seed}-{self.id[:8]}"


def label(recipe: str, axes: Iterable[tuple[str, str]]) -> str:
    """The recipe's name, and the axes that it does not tell."""
    others = [
        f"{name}={value}"
        for name, value in axes
        if not Axis(name, ()).is_of_the_recipe and name.partition(".")[0] != "recipe"
    ]
    return " ".join([recipe, *others])


def build(base: Run, axes: Sequence[Axis], *, seeds: int) -> list[Cell]:
    """Every combination of the axes' values with every seed 0 ... seeds - 1, equal ones once; seeds vary slowest.

    Errors: CellsNotBuilt with a sentence for each combination that cannot be; ValueError for no seed, and for an axis
    of granularity or rounding that no cell can show.
    """
    if seeds < 1:
        raise ValueError(f"sweep wants at least one seed, got seeds={seeds}")
    chosen = [
        tuple(zip([axis.name for axis in axes], values, strict=True))
        for values in product(*(axis.values for axis in axes))
    ]
    first: list[Cell] = []
    reasons: list[str] = []
    checked: set[tuple[object, ...]] = set()
    for one in chosen:
        try:
            cell = _cell(base, one)
            _check(cell.run, checked)
            first.append(cell)
        except (ValueError, TypeError, FileNotFoundError) as error:
            reasons.append(f"{' '.join(f'{name}={value}' for name, value in one)} cannot be built: {error}")
    if reasons:
        raise CellsNotBuilt(reasons)
    _check_effects(axes, first, base)
    cells = [Cell(cell.axes, replace(cell.run, seed=seed)) for seed in range(seeds) for cell in first]
    return list({cell.id: cell for cell in reversed(cells)}.values())[::-1]


def _cell(base: Run, values: tuple[tuple[str, str], ...]) -> Cell:
    """The cell of these values at the base's seed. Errors: ValueError, TypeError, FileNotFoundError."""
    run = resolved(with_settings(base, settings_of(dict(values), base.recipe)))
    if run.checkpoint.every == 0:
        every = -(-run.steps // CHECKPOINTS)
        run = replace(run, checkpoint=Checkpoint(every=every, keep=run.checkpoint.keep))
    return Cell(values, run)


def _check(run: Run, checked: set[tuple[object, ...]]) -> None:
    """Checks model and data once for all the cells that share them."""
    shared = (run.model, run.data, run.config)
    if shared not in checked:
        check(run)
        checked.add(shared)


def _check_effects(axes: Sequence[Axis], cells: Sequence[Cell], base: Run) -> None:
    """Errors: ValueError for an axis of granularity or rounding of what no cell writes."""
    for axis in axes:
        letters = {COMPONENTS[component] for component in axis.how}
        if letters and not any(letters & written(dict(cell.axes), base.recipe).keys() for cell in cells):
            raise ValueError(
                f"axis {axis.name} says how {' and '.join(axis.how)} are written, but no cell of the grid writes them"
            )
