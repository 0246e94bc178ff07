"""The page of all configuration keys, docs/configuration.md, written from the classes that declare them."""

from __future__ import annotations

from collections.abc import Sequence

from latbench import registry
from latbench.config.keys import Key, every_task_keys, imported_keys, method_keys, shared_keys, task_keys

_INTRODUCTION = """\
# Configuration

A run is determined by a tree of keys. Set one with `--set KEY=VALUE`, in a YAML file given as `--config FILE`, or in
Python with `settings={"KEY": VALUE}`. Unknown keys and values out of range are refused, all errors at once.
`latbench list keys --method NAME` prints the keys of one method in the terminal. Four more keys name things:
`method.name` and `task.name` (also `method: NAME` and `task: NAME`), `preset`, a named set-up of the method, and
`start`, the run that this one starts from, a tree like this one with `method`, `preset` and `train` of its own.

This page is written by `latbench list keys --markdown > docs/configuration.md` from the classes that declare the keys.
"""


_IMPORTED = """\
`latbench import` writes these keys. Its `--set` sets `imported.lora_alpha`, `imported.first_added_id` and the keys of
the other sections; what the importer chose itself is under `imported.settings`, with its source in the run's
`train.json`.
"""


def configuration_page() -> str:
    """The whole page as Markdown: the keys of every run, of released checkpoints, of each method and of each task."""
    parts = [_INTRODUCTION, "## Every run\n", _table(shared_keys())]
    parts += ["## Released checkpoints\n", _IMPORTED, _table(imported_keys())]
    for name in registry.method_names():
        keys = method_keys(name)
        parts += [f"## The method `{name}`\n", _table(keys) if keys else "No keys of its own.\n"]
    shared = every_task_keys()
    parts += ["## Every task\n", _table(shared)]
    own = {name: [key for key in task_keys(name) if key not in shared] for name in registry.task_names()}
    for name, keys in own.items():
        if keys:
            parts += [f"## The task `{name}`\n", _table(keys)]
    plain = ", ".join(f"`{name}`" for name, keys in own.items() if not keys)
    parts += [f"These tasks have no further keys: {plain}.\n"]
    parts += ["## Own data\n", "Of a data file or a Hub id given as the task ([own data](own_data.md)).\n"]
    return "\n".join([*parts, _table([key for key in task_keys("own--data") if key not in shared])])


def _table(keys: Sequence[Key]) -> str:
    rows = [f"| `{key.name}` | {_cell(key.type)} | `{_cell(key.default)}` | {_cell(key.meaning)} |\n" for key in keys]
    return "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")
