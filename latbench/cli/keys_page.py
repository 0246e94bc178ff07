"""The page of all configuration keys, docs/configuration.md, written from the classes that declare them."""

from __future__ import annotations

from collections.abc import Sequence

from latbench import registry
from latbench.config.keys import Key, method_keys, shared_keys, task_keys

_INTRODUCTION = """\
# Configuration

A run is determined by a tree of keys. Set one with `--set KEY=VALUE`, in a YAML file given as `--config FILE`, or in
Python with `settings={"KEY": VALUE}`. Unknown keys and values out of range are refused, all errors at once.
`latbench list keys --method NAME` prints the keys of one method in the terminal.

This page is written by `latbench list keys --markdown > docs/configuration.md` from the classes that declare the keys.
"""


def configuration_page() -> str:
    """The whole page as Markdown: the keys of every run, then of each method and each task."""
    parts = [_INTRODUCTION, "## Every run\n", _table(shared_keys())]
    for title, names, keys_of in (
        ("method", registry.method_names(), method_keys),
        ("task", registry.task_names(), task_keys),
    ):
        for name in names:
            keys = keys_of(name)
            parts += [f"## The {title} `{name}`\n", _table(keys) if keys else "No keys of its own.\n"]
    parts += ["## Own data\n", "Of a data file or a Hub id given as the task ([own data](own_data.md)).\n"]
    return "\n".join([*parts, _table(task_keys("own--data"))])


def _table(keys: Sequence[Key]) -> str:
    rows = [f"| `{key.name}` | {_cell(key.type)} | `{_cell(key.default)}` | {_cell(key.meaning)} |\n" for key in keys]
    return "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")
