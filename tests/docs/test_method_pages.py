"""Each method has a page: what it does, how papers and released code differ, presets, published numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from latbench import registry
from tests.docs.published import ROOT, published

PAGES = ROOT / "docs" / "methods"
PUBLISHED = "## Published numbers\n"


def page(method: str) -> str:
    return (PAGES / f"{method}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", registry.method_names())
def test_a_method_has_a_page_that_names_its_presets(method: str) -> None:
    text = page(method)
    presets: Mapping[str, Any] = yaml.safe_load((ROOT / "methods" / "presets" / f"{method}.yaml").read_text("utf-8"))
    assert [name for name in presets if f"`{name}`" not in text] == []
    assert re.search(rf"^latbench train --method {method}\b", text, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_published_numbers_of_a_page_are_those_of_the_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if PUBLISHED in text:
        table = published(path.stem)
        assert table, f"{path.stem} has no published numbers"
        assert table in text.partition(PUBLISHED)[2], f"write it anew:\n{table}"


def test_the_index_has_a_line_for_each_method() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert [name for name in registry.method_names() if f"| [`{name}`]({name}.md) |" not in index] == []


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))


def named(entry: Any) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in named(part)]
