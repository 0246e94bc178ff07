"""What is at hand: methods, tasks, presets, runs, configuration keys; read from files alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import TINY, tree
from latbench.config.keys import Key, every_task_keys, imported_keys, method_keys, shared_keys, task_keys
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import evaluations_in, read_evaluation, read_manifest
from latbench.runs.run import CONFIG, EVAL, TRAIN, run_folders

Row = dict[str, Any]
KEYS = "keys"
"""The list that is no folder's content."""


def rows(what: str, runs_dir: Path) -> list[Row]:
    """A mapping for each method, task, preset or run, with numbers as numbers.

    Args:
        what: methods, tasks, presets or runs.
        runs_dir: folder of all runs.
    Raises: ValueError: there is no such list.
    """
    return _list(what)[0](runs_dir)


def texts(what: str, runs_dir: Path) -> Mapping[str, str]:
    """What people read of each, by name; arguments as in `rows`. Raises: ValueError: there is no such list."""
    return _list(what)[1](runs_dir)


def keys(method: str | None = None, task: str | None = None) -> list[Key]:
    """The configuration keys of every run.

    Args:
        method: those that this method reads as well.
        task: those that this task reads as well; None: those that all tasks read.
    Raises: ValueError: there is no such method or task.
    """
    of_task = task_keys(task) if task else every_task_keys()
    return [*shared_keys(), *of_task, *(method_keys(method) if method else []), *imported_keys()]


def _list(what: str) -> tuple[Callable[[Path], list[Row]], Callable[[Path], Mapping[str, str]]]:
    if what not in LISTS:
        raise registry.unknown("list", what, [*LISTS, KEYS])
    return LISTS[what]


def _registered(kind: registry.Kind) -> list[Row]:
    return [{"name": name, "description": text} for name, text in registry.describe(kind).items()]


def _presets() -> list[Row]:
    return [
        {
            "method": method,
            "preset": name,
            "model": preset.get("model", {}).get("id", TINY),
            "task": preset.get("task", {}).get("name"),
        }
        for method in registry.method_names()
        for name, preset in tree.presets(method).items()
    ]


def _preset_texts() -> dict[str, str]:
    return {f"{row['method']}: {row['preset']}": f"{row['model']} on {row['task'] or 'any task'}" for row in _presets()}


def _runs(runs_dir: Path) -> list[Row]:
    return [_run(folder) for folder in run_folders(runs_dir)]


def _run(folder: Path) -> Row:
    try:
        config = tree.read_yaml(folder / CONFIG)
    except ValueError:  # damaged, as the commands that need it say
        config = {}
    costs = _report(folder).get("costs")
    costs = costs if isinstance(costs, dict) else {}
    return {
        "name": folder.name,
        "folder": str(folder),
        "state": _state(folder),
        "method": tree.get(config, "method.name"),
        "task": tree.get(config, "task.name"),
        "model": tree.get(config, "model.id"),
        "seed": config.get("seed"),
        "steps": costs.get("optimiser_steps"),
        "seconds": costs.get("seconds"),
        "evaluations": [_evaluation(path) for path in evaluations_in(folder / EVAL)],
    }


def _evaluation(folder: Path) -> Row:
    row: Row = {"name": folder.name, "folder": str(folder), "complete": _is_complete(folder)}
    try:
        summary = summarise(read_evaluation(folder))
    except ValueError:  # begun, or damaged
        return row
    accuracy, length = summary.accuracy, summary.chain_length
    return row | {
        "task": summary.manifest.task,
        "split": summary.manifest.split,
        "n": summary.n,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "chain_length": None if length is None else length.value,
    }


def _run_texts(runs_dir: Path) -> dict[str, str]:
    found = {}
    for folder in run_folders(runs_dir):
        evaluations = [
            f"{path.name}{'' if _is_complete(path) else ' (incomplete)'}" for path in evaluations_in(folder / EVAL)
        ]
        found[folder.name] = ", ".join([_state(folder), *evaluations])
    return found


def _is_complete(folder: Path) -> bool:
    try:
        return read_manifest(folder).complete
    except ValueError:
        return False


def _report(folder: Path) -> Row:
    try:
        found = json.loads((folder / TRAIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(folder: Path) -> str:
    if not (folder / TRAIN).exists():
        return "unfinished"
    trained = _report(folder).get("trained")
    return f"{TRAIN} damaged" if trained is None else "trained" if trained else "not trained"


LISTS: Mapping[str, tuple[Callable[[Path], list[Row]], Callable[[Path], Mapping[str, str]]]] = {
    "methods": (lambda _: _registered("method"), lambda _: registry.describe("method")),
    "tasks": (lambda _: _registered("task"), lambda _: registry.describe("task")),
    "presets": (lambda _: _presets(), lambda _: _preset_texts()),
    "runs": (_runs, _run_texts),
}
"""By name: the rows, and what people read."""
