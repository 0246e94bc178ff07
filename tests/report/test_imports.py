"""The report is made of records: no model, no writing into runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors.torch")
MODULES = sorted(path.stem for path in (ROOT / "latbench" / "report").glob("*.py"))


def imported(path: Path, *, anywhere: bool) -> set[str]:
    """Names that a file imports; of `from a import b` both a and a.b. Within functions too where asked for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def source(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((found for found in candidates if name.startswith("latbench") and found.is_file()), None)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_that_a_report_imports_can_build_a_model(module: str) -> None:
    """Within the report, imports in functions count as well; elsewhere those that importing it carries out."""
    waiting, seen = [f"latbench.report.{module}"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert not name.startswith(HEAVY), name
        path = source(name)
        waiting += imported(path, anywhere=name.startswith("latbench.report")) if path else []
    floors = {name.split(".")[1] for name in seen if name.startswith("latbench.") and source(name)}
    assert not floors & {"runs", "sweep", "training", "model", "decoding", "serving", "cli", "submission"}, floors


def test_modules_of_the_report_have_no_circle() -> None:
    folder, left = ROOT / "latbench" / "report", dict[str, set[str]]()
    for name in MODULES:
        names = imported(folder / f"{name}.py", anywhere=True)
        left[name] = {other for other in MODULES if f"latbench.report.{other}" in names}
    while left:
        ready = [name for name, needs in left.items() if not needs & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in ready}
