"""What a wheel would ship: every package of the checkout is declared."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("latbench", "methods", "tasks")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert sorted(declared) == sorted(found)
