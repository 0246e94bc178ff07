"""What is at hand: methods, tasks, presets, runs; read from files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from latbench import registry
from latbench.config import TINY, tree
from latbench.evaluation.records import MANIFEST, read_manifest
from latbench.runs.run import EVAL, TRAIN, run_folders

Listing = dict[str, str]


def methods(_runs_dir: Path) -> Listing:
    """First docstring line by name."""
    return registry.describe("method")


def tasks(_runs_dir: Path) -> Listing:
    """First docstring line by name."""
    return registry.describe("task")


def presets(_runs_dir: Path) -> Listing:
    """Model and training task by `<method>: <preset>`."""
    found = {}
    for method in registry.method_names():
        for name, preset in tree.presets(method).items():
            model, task = preset.get("model", {}).get("id", TINY), preset.get("task", {}).get("name", "any task")
            found[f"{method}: {name}"] = f"{model} on {task}"
    return found


def runs(runs_dir: Path) -> Listing:
    """State and evaluations by run."""
    return {folder.name: ", ".join([_state(folder), *_evaluations(folder)]) for folder in run_folders(runs_dir)}


LISTINGS: Mapping[str, Callable[[Path], Listing]] = {
    "methods": methods,
    "tasks": tasks,
    "presets": presets,
    "runs": runs,
}


def _state(folder: Path) -> str:
    if not (folder / TRAIN).exists():
        return "unfinished"
    try:
        return "trained" if json.loads((folder / TRAIN).read_text(encoding="utf-8"))["trained"] else "not trained"
    except (ValueError, KeyError, TypeError):
        return f"{TRAIN} damaged"


def _evaluations(folder: Path) -> list[str]:
    found = []
    for path in sorted((folder / EVAL).glob(f"*/{MANIFEST}")):
        try:
            complete = read_manifest(path.parent).complete
        except ValueError:
            complete = False
        found.append(f"{path.parent.name}{'' if complete else ' (incomplete)'}")
    return found
