"""The floors of the house: which folder may import which, no circle, and no model below the reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("latbench", "methods", "tasks")
# From the ground up; what shares a floor may import each other, as long as that makes no circle of files.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "latbench.util",
        "latbench.task latbench.registry latbench.answers",
        "latbench.config",
        "latbench.data",
        "latbench.model",
        "latbench.decoding",
        "latbench.method latbench.importer",
        "latbench.training",
        "latbench.authoring latbench.importer",
        "methods tasks",
        "latbench.runs",
        "latbench.evaluation",
        "latbench.measures",
        "latbench.report",
        "latbench.recorded_passes",
        "latbench.submission latbench.sweeps latbench.integrations latbench.results latbench.api latbench.serving "
        "latbench.exporting latbench.listing",
        "latbench.cli latbench.__main__ latbench",
    )
)
MODELS = ("torch", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class Import:
    """One import: which file has it, what it names, and whether it is there for type checkers alone."""

    file: str
    line: int
    name: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


@cache
def sources() -> Mapping[str, Path]:
    """Files by the names of their modules."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Every import of every file, those inside functions and under TYPE_CHECKING included."""
    return tuple(one for name, path in sources().items() for one in _imports(name, path))


def _imports(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in sources() else str(node.module) for name in whole]
        else:
            continue
        for name in dict.fromkeys(names):
            yield Import(module, node.lineno, name, for_types=id(node) in typed)


def floor(module: str) -> int:
    """Number of the floor of a module, from 0."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(FLOORS):
            if ".".join(parts[:length]) in names and (length > 1 or module == parts[0] or parts[0] != "latbench"):
                return number
    raise AssertionError(f"{module} has no floor; give it one in FLOORS")


@cache
def graph() -> Mapping[str, tuple[Import, ...]]:
    """The imports of our own files, by file."""
    own = [one for one in imports() if one.name in sources() and one.name != one.file]
    return {name: tuple(one for one in own if one.file == name) for name in sources()}


def circles() -> list[list[str]]:
    """Files that import each other in a circle: the strongly connected parts of the graph (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in (one.name for one in graph()[name]):
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            place = stack.index(name)
            part = stack[place:]
            del stack[place:]
            if len(part) > 1:
                found.append(sorted(part))

    for name in sources():
        if name not in index:
            visit(name)
    return found


def test_no_import_runs_up_a_floor() -> None:
    up = [str(one) for rows in graph().values() for one in rows if floor(one.name) > floor(one.file)]
    assert up == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_every_folder_of_the_harness_has_its_floor() -> None:
    assert all(floor(name) >= 0 for name in sources())


def test_no_folder_imports_another_of_its_floor_in_a_circle() -> None:
    """Such as submission and sweep: one may know the other, not both each other."""
    folders = {(_folder(one.file), _folder(one.name)) for rows in graph().values() for one in rows}
    both = sorted({tuple(sorted(pair)) for pair in folders if pair[0] != pair[1] and pair[::-1] in folders})
    assert both == []


def _folder(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "latbench" else parts[0]


@pytest.mark.parametrize("folder", ["latbench.report", "latbench.util", "latbench.answers", "latbench.config"])
def test_what_needs_no_model_imports_nothing_that_does(folder: str) -> None:
    """At any depth, inside functions too; what is there for type checkers alone is not run."""
    begun = [name for name in sources() if name == folder or name.startswith(folder + ".")]
    paths: dict[str, tuple[str, ...]] = {name: (name,) for name in begun}
    rows = {name: [one for one in imports() if one.file == name and not one.for_types] for name in sources()}
    while begun:
        name = begun.pop()
        for one in rows[name]:
            assert one.name.split(".")[0] not in MODELS, " -> ".join((*paths[name], one.name))
            if one.name in sources() and one.name not in paths:
                paths[one.name] = (*paths[name], one.name)
                begun.append(one.name)


def test_the_core_names_no_method_and_no_task() -> None:
    """The registry alone imports the packages, by string."""
    named = [
        str(one) for one in imports() if one.file.startswith("latbench") and one.name.split(".")[0] in PACKAGES[1:]
    ]
    assert named == []


def test_methods_and_tasks_import_no_room_above_them() -> None:
    allowed = {"latbench.evaluation", "latbench.measures", "latbench.report", "latbench.runs", "latbench.cli"}
    above = [
        str(one)
        for one in imports()
        if one.file.split(".")[0] in PACKAGES[1:] and any(one.name.startswith(room) for room in allowed)
    ]
    assert above == []
