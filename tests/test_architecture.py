"""The house: imports point down, rooms are small, doors only re-export, the optional stays optional."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "src" / "pennyweight"
FLOORS = [
    ["spelling", "cache"],
    ["numerics"],
    ["kernels"],
    ["recipes"],
    ["nn", "optim", "data"],
    ["parallel", "analysis"],
    ["training"],
    ["experiments"],
    ["cli"],
]  # ground floor first
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {HOUSE / "__init__.py", HOUSE / "__main__.py"}
FILES = sorted(set(HOUSE.rglob("*.py")) - DOORS)


def room(path: Path) -> str:
    """The floor's folder, or the file itself where a floor is one file."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Every module named by an import statement anywhere in the file, hidden ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_rooms(path: Path) -> set[str]:
    ours = (name.split(".") for name in imported_modules(path) if name.startswith("pennyweight."))
    return {parts[1] for parts in ours} & set(FLOOR)


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def test_every_room_stands_on_a_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    here = room(path)
    for there in imported_rooms(path) - {here}:
        assert FLOOR[there] < FLOOR[here], f"{here} may not import {there}: same floor or higher"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nobody_inside_imports_from_the_root(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pennyweight":
            names = {alias.name for alias in node.names}
            assert names <= {"__version__", *FLOOR}, f"{path} imports {names} from the root"


def test_no_import_cycle_between_files() -> None:
    module = {".".join(("pennyweight", *path.relative_to(HOUSE).with_suffix("").parts)): path for path in FILES}
    module = {name.removesuffix(".__init__"): path for name, path in module.items()}
    edges = {name: {m for m in imported_modules(path) if m in module and m != name} for name, path in module.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for there in edges[name]:
                if not module[name].name.startswith("__init__"):
                    walk(there, (*trail, name))
            done.add(name)

    for name in edges:
        walk(name, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_says_what_it_answers_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    assert ast.get_docstring(ast.parse(text)), f"{path} opens without a docstring"
    assert text.count("\n") <= 400, f"{path} has more than 400 lines: look for the second noun"
    assert not re.fullmatch(r"utils|common|misc|helpers|base|core", path.stem), f"{path.stem} names no noun"


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("__init__.py")), ids=name_of)
def test_doors_only_reexport(path: Path) -> None:
    if path == HOUSE / "__init__.py":
        return  # the root's lazy table (PEP 562), held by the test below
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr), f"{path} defines something"


def test_the_root_imports_nothing_until_asked() -> None:
    code = "import sys, pennyweight; assert 'torch' not in sys.modules; print(sorted(pennyweight.__all__)[:1])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_public_name_of_the_root_is_there() -> None:
    import pennyweight

    for name in pennyweight.__all__:
        assert getattr(pennyweight, name) is not None
    with pytest.raises(AttributeError, match="quantise"):
        _ = pennyweight.quantise  # pyright: ignore[reportAttributeAccessIssue]


def test_nothing_is_unpickled_and_no_remote_code_is_run() -> None:
    forbidden = re.compile(r"\bpickle\b|weights_only\s*=\s*False|trust_remote_code\s*=\s*True|\beval\(|\bexec\(")
    for path in FILES:
        lines = path.read_text(encoding="utf8").splitlines()
        for number, line in enumerate(lines, 1):
            if found := forbidden.search(line):
                assert f".{found.group()}" in line, f"{path}:{number}: {line.strip()}"


PRIVATE = re.compile(r"torch\._(?!dynamo|subclasses|C\b)[a-z]\w*|torch\.ops\.aten\._\w+")


def test_private_operators_are_looked_up_in_one_file() -> None:
    users = {name_of(path) for path in FILES if PRIVATE.search(path.read_text(encoding="utf8"))}
    assert users <= {"kernels/doors.py"}
