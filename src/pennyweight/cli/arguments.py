"""Arguments: what was typed, brought into the form that the verbs read, and runs built from it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pennyweight.training import Run

SPREAD = ("--set", "--grid")  # flags that take several path=value
SETTING = re.compile(r"[A-Za-z_][\w.-]*=")


def spread_settings(words: Sequence[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`: every path=value after a setting is a setting too; so with --grid."""
    spread: list[str] = []
    flag = None  # the one whose values these words are
    for place, word in enumerate(words):
        if word == "--":
            return [*spread, *words[place:]]
        if flag and spread[-1] != flag and SETTING.match(word):
            spread += [flag, word]
            continue
        value = bool(spread) and spread[-1] in SPREAD
        begun = next((name for name in SPREAD if word == name or word.startswith(f"{name}=")), None)
        flag = begun or (flag if value else None)
        spread.append(word)
    return spread


def check_no_setting(words: Sequence[str]) -> None:
    """Errors: ValueError where one of the words that name something else is a setting without its --set."""
    for word in words:
        if SETTING.match(word) and not Path(word).exists():
            raise ValueError(f"a setting stands after --set, got {word} alone: --set {word}")


def run_with(
    base: "Run", *, recipe: str | None = None, model: str | None = None, data: str | None = None,
    weights: str | None = None, steps: int | None = None, seed: int | None = None, settings: Sequence[str] = (),
) -> "Run":  # fmt: skip
    """The run with the everyday flags that were given, then the settings. Errors: ValueError in one sentence."""
    from pennyweight.training import Run, with_settings

    if weights is not None and model is None and base.model == Run.model:
        model = model_beside(weights)
    written = base.to_dict()
    given = {"recipe": recipe, "model": model, "weights": weights, "steps": steps, "seed": seed}
    written |= {name: value for name, value in given.items() if value is not None}
    if model is not None:
        written.pop("config", None)  # a model that is named anew is read anew
    if data is not None:
        written["data"]["source"] = data
    return with_settings(Run.from_dict(written), list(settings))


def model_beside(weights: str) -> str:
    """The folder whose config.json says what model the weights are of. Errors: those of `weights_files`."""
    from pennyweight.training.weights import weights_files

    return str(weights_files(Path(weights))[0].parent)
