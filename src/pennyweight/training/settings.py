"""Settings of a run as text: `a.b=value` in, and what differs between two runs out."""

import json
from dataclasses import replace
from typing import Any

from pennyweight.recipes import Recipe, recipe
from pennyweight.spelling import closest, nearest
from pennyweight.training.models import read_config
from pennyweight.training.run import Config, Part, Run
from pennyweight.training.weights import known


def flat(written: Part, prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted paths: {"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}."""
    paths: dict[str, Any] = {}
    for name, one in written.items():
        if isinstance(one, dict) and one:
            paths |= flat(one, f"{prefix}{name}.")
        else:
            paths[f"{prefix}{name}"] = one
    return paths


def resolved(run: Run) -> Run:
    """The run with what its model's config and its weights hold now, where that is not yet known.

    Errors: those of `read_config` and `weights_files`.
    """
    if run.weights is not None and not run.weights.hash:
        run = replace(run, weights=known(run.weights))
    if run.config is not None:
        return run
    return replace(run, config=Config(of=run.model, says=json.dumps(read_config(run.model), sort_keys=True)))


def differences(a: Run, b: Run) -> list[str]:
    """What differs between two runs, one text for each setting; no text: the same run, whoever tracks it.

    What the models' configs say and what their weights hold is compared where both runs know it (see `resolved`).
    """
    left, right = a.to_dict(), b.to_dict()
    configs = [side.pop("config", {"says": None})["says"] for side in (left, right)]
    del left["tracker"], right["tracker"]
    if a.model == b.model and None not in configs:
        left["model"], right["model"] = configs
    if a.weights and b.weights and a.weights.hash and b.weights.hash:
        del left["weights"]["of"], right["weights"]["of"]
    told: list[str] = []
    if str(a.recipe) != str(b.recipe):
        told.append(f"recipe: {a.recipe} is not {b.recipe}")
        del left["recipe"], right["recipe"]
    left, right = flat(left), flat(right)
    absent = object()
    for path in dict.fromkeys([*left, *right]):
        one, other = left.get(path, absent), right.get(path, absent)
        if one != other:
            shown = ["nothing" if side is absent else json.dumps(side) for side in (one, other)]
            told.append(f"{path}: {shown[0]} is not {shown[1]}")
    return told


def typed(text: str) -> Any:
    """The value that a text stands for: number, true, false, null or none, a list, else the text itself."""
    if text.lower() in {"none", "null"}:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return [typed(part) for part in text.split(",")] if "," in text else text


def with_settings(run: Run, settings: list[str]) -> Run:
    """The run with each `path=value` of `settings` in place; dots lead into its parts and into the recipe.

    The run is judged when all of them are in place: the order of settings that need each other does not matter.
    Errors: ValueError for a text without "=", an unknown path (nearest right name) and a value that does not fit.
    """
    written, chosen = run.to_dict(), run.recipe
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"a setting is written path=value, got {setting!r}")
        names = path.strip().split(".")
        if names == ["recipe"]:
            chosen = recipe(text)
        elif names[0] == "recipe":
            chosen = _changed(chosen, names[1:], text)
        else:
            _put(written, names, text)
    return Run.from_dict({**written, "recipe": chosen})


def _group_of(names: list[str], root: str, written: Part) -> Part:
    """The group of settings in which the last of `names` stands. Errors: ValueError where the path leads nowhere."""
    place: Any = written
    for depth, name in enumerate(names):
        owner = ".".join([root, *names[:depth]])
        if not isinstance(place, dict):
            raise ValueError(f"{owner} is one value and has no field {name!r}")
        if name not in place:
            raise ValueError(f"{owner} has no field {name!r}{_meant(names, place) or nearest(name, list(place))}")
        if depth + 1 < len(names):
            place = place[name]
    return place


def _meant(names: list[str], written: Part) -> str:
    """For a single name that stands deeper in a group: "; did you mean 'optimizer.lr'?"; else nothing."""
    if len(names) > 1:
        return ""
    leaves: dict[str, list[str]] = {}
    for path in flat({name: part for name, part in written.items() if name != "config"}):
        leaves.setdefault(path.rpartition(".")[2], []).append(path)
    found = closest(names[0], leaves)
    return f"; did you mean {' or '.join(map(repr, leaves[found]))}?" if found else ""


def _put(written: Part, names: list[str], text: str) -> None:
    """Puts one value in its place in a run's JSON."""
    place = _group_of(names, "Run", written)
    old = place[names[-1]]
    if isinstance(old, dict):
        raise ValueError(
            f"Run.{'.'.join(names)} is a group of settings; set one of {', '.join('.'.join([*names, n]) for n in old)}"
        )
    place[names[-1]] = text if isinstance(old, str) else typed(text)


def _changed(before: Recipe, names: list[str], text: str) -> Recipe:
    """The recipe with one value in it changed; its name says so, since it is another recipe now."""
    if before.then:
        raise ValueError(
            f"Recipe.{'.'.join(names)} belongs to one recipe, but {str(before)!r} are {len(before.phases)}; say it in "
            "the notation of each of them, such as w8a8m8v8"
        )
    written = before.to_dict()
    place = _group_of(names, "Recipe", written)
    old = place[names[-1]]
    if isinstance(old, dict):
        raise ValueError(f"Recipe.{'.'.join(names)} is a group of settings; set one of {', '.join(old)} in it")
    new = text if isinstance(old, str) else typed(text)
    if new == old:
        return before
    place[names[-1]] = new
    if names != ["name"] and isinstance(written.get("name"), str):
        written["name"] = f"{written['name']}+{'.'.join(names)}={text}"
    return Recipe.from_dict(written)
