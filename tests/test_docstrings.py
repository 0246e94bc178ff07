"""The form of docstrings: one entry for each name, and no sentence that only its neighbours explain."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("latbench", "methods", "tasks") for path in sorted((ROOT / package).rglob("*.py"))]
NAME = r"\*{0,2}[a-z_]\w*"
JOINED = re.compile(rf"^    {NAME}(?:(?:, | / |/){NAME})+: |; {NAME}(?:, {NAME})*: ", re.MULTILINE)
RIDDLES = re.compile(r"[Ww]hat stands? (?:beside|in|about)\b|\bstands? beside\b|\b(?:that|those) of (?:that|those)\b")


def documented(path: Path) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The module, and each class and function in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The name and the docstring of the module, and of each class and function in it."""
    for node in documented(path):
        yield getattr(node, "name", path.stem), ast.get_docstring(node) or ""


def arguments(text: str) -> str:
    """The block of a docstring that explains arguments or fields; empty where there is none."""
    block = text.partition("Args:\n")[2]
    return re.split(r"^\S", block, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_name_has_an_entry_of_its_own(path: Path) -> None:
    assert [name for name, text in docstrings(path) if JOINED.search(arguments(text))] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_entry_of_a_function_is_a_parameter(path: Path) -> None:
    for node in documented(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = re.findall(rf"^    ({NAME}): ", arguments(ast.get_docstring(node) or ""), re.MULTILINE)
            known = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
            assert [name for name in names if name.lstrip("*") not in known] == [], node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_is_a_riddle(path: Path) -> None:
    assert [name for name, text in docstrings(path) if RIDDLES.search(text)] == []


def test_what_is_looked_for_is_found() -> None:
    assert JOINED.search("    rows, labels: what they say.")
    assert JOINED.search("    rows: (batch,); labels: of them.")
    assert not JOINED.search("    rows: (batch,) ids; None: all.")
    assert RIDDLES.search("What stands beside the records.")
