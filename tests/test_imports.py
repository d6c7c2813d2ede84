"""Who may import whom: the arrows of the design run one way, and light commands load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import medcycle

PACKAGE = Path(medcycle.__file__).parent

# cli -> training | inference | evaluation -> data | prepare | model -> networks | io -> volume | errors
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "volume": {"errors"},
    "device": {"errors"},
    "similarity": set(),
    "agreement": {"similarity"},  # measured alike in training and in translation, which do not know each other
    "io": {"volume", "errors"},
    "networks": {"errors"},
    "data": {"io", "volume", "errors"},
    "prepare": {"io", "volume", "errors"},
    "model": {"data", "prepare", "networks", "errors"},
    "inference": {"model", "data", "prepare", "networks", "io", "volume", "errors", "device", "agreement"},
    "evaluation": {"data", "prepare", "io", "volume", "errors", "similarity"},
    "config": {"errors"},
    "console": set(),
    "notices": set(),
    "training": {"config", "console", "device", "model", "data", "prepare", "networks", "io", "volume", "errors"}
    | {"similarity", "agreement", "evaluation"},  # the latter: the report page, which both rooms write; features
    "benchmark": {"config", "console", "training", "inference", "evaluation", "data", "device", "io", "errors"},
    "demo": {"config", "console", "training", "inference", "evaluation", "data", "io"},
    "cli": {"config", "console", "notices", "benchmark", "demo", "training", "inference", "evaluation", "data", "io"}
    | {"errors"},
    "__main__": {"cli"},
    "__init__": set(),  # gives public names when they are asked for
}
HEAVY = {
    "av",
    "torch",
    "monai",
    "torchio",
    "matplotlib",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "skimage",
    "scipy",
    "numpy",
}
# What a room may import when it is itself imported. Everything else heavy waits inside the function that needs it.
AT_ONCE = {room: {"numpy"} for room in ("volume", "io", "prepare", "evaluation", "benchmark")} | {
    room: {"numpy", "torch"}
    for room in ("data", "networks", "model", "device", "similarity", "agreement", "training", "inference")
}


class Import(NamedTuple):
    """One import statement's module, and whether it is run when its file is imported."""

    module: str
    at_once: bool


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file but those for type checkers."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                if child.module == "medcycle":  # the names may be rooms themselves
                    yield from (Import(f"medcycle.{alias.name}", at_once) for alias in child.names)
                else:
                    yield Import(str(child.module), at_once)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_once and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_plan() -> None:
    assert {room_of(path) for path in FILES} == set(ARROWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_one_way(path: Path) -> None:
    room = room_of(path)
    for found in imports(path):
        name, _, rest = found.module.partition(".")
        if name != "medcycle" or not rest:
            continue
        other = rest.split(".")[0]
        if other == "__version__":
            continue
        assert other == room or other in ARROWS[room], f"{room} imports {found.module}"


def test_the_plan_has_no_circles() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        free = {room for room, below in ARROWS.items() if below <= done} - done
        assert free, f"a circle among {set(ARROWS) - done}"
        done |= free


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_imports_wait(path: Path) -> None:
    allowed = AT_ONCE.get(room_of(path), set())
    if path == PACKAGE / "io" / "monai.py":  # subclasses of MONAI's; nothing of medcycle imports it
        allowed = allowed | {"monai"}
    early = {found.module.partition(".")[0] for found in imports(path) if found.at_once} & HEAVY
    assert early <= allowed


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that a fresh Python has loaded after the statement."""
    code = f"import sys\n{statement}\nprint(*({HEAVY!r} & set(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_is_light_loads_nothing_heavy() -> None:
    # What medcycle's own files leave to functions, another package's import could still bring in.
    assert loaded_by("import medcycle, medcycle.errors, medcycle.config, medcycle.cli, medcycle.console") == set()
    assert loaded_by("import medcycle.io, medcycle.evaluation") <= {"numpy"}


def test_public_names_are_sorted_and_there() -> None:
    assert list(medcycle.__all__) == sorted(medcycle.__all__)
    assert set(medcycle.__all__) == set(medcycle._HOMES)
    for name in medcycle.__all__:
        assert getattr(medcycle, name).__name__ == name
        assert getattr(medcycle, name).__doc__
    assert set(dir(medcycle)) == {*medcycle.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        medcycle.nonsense  # noqa: B018


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py" and p.parent != PACKAGE])
def test_rooms_list_what_they_offer(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    for names in listed:
        assert names == sorted(names)
