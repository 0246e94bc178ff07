"""Training curves of a run for the page, read from the logs of its stages where these are at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from latbench.evaluation.records import Manifest

LOGS = "stages/*/log.jsonl"  # in a run's folder, in the order of the stages
MAX_ROWS = 100_000  # of a log that are read
MAX_SERIES = 40  # of a stage; one of reinforcement learning logs some 25
POINTS = (60, 30, 15)  # most points of a curve, fewer where they have more bytes than they may
FEWEST = 5


def curves(folder: Path, manifest: Manifest, max_bytes: int) -> list[dict[str, Any]]:
    """What was logged in training, in groups of figures that were logged together: the stage, the steps, and a list of
    values by figure.

    Args:
        folder: of the evaluation, in the folder of its run.
        manifest: of the evaluation; logs of another run are not taken for its own.
        max_bytes: of the JSON that they become; longer curves are thinned out.
    """
    run = folder.parents[1]
    if run.name != manifest.run:
        return []
    logs = {path.parent.name: _rows(path) for path in sorted(run.glob(LOGS), key=_stage)}
    made: list[dict[str, Any]] = []
    for most in (*POINTS, FEWEST):
        made = [_thinned(name, group, most) for name, rows in logs.items() for group in _groups(rows)]
        if len(json.dumps(made)) <= max_bytes:
            return made
    return []


def _rows(path: Path) -> list[Mapping[str, float]]:
    """The lines of a log that can be read: finite numbers by name, one of them the step."""
    rows: list[Mapping[str, float]] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in islice(file, MAX_ROWS):
                row = _numbers(line)
                if "step" in row:
                    rows.append(row)
    except OSError:
        return []
    return rows


def _numbers(line: str) -> dict[str, float]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if type(value) in (int, float) and isfinite(value)}


def _groups(rows: Sequence[Mapping[str, float]]) -> list[list[Mapping[str, float]]]:
    """The rows of each group of figures that stand in the same rows, such as those of held-out questions, which are
    logged now and then: thinned out with the others they would be lost."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        for figure in row:
            if figure not in ("step", "epoch"):
                places.setdefault(figure, []).append(place)
    groups: dict[tuple[int, ...], list[str]] = {}
    for figure in list(places)[:MAX_SERIES]:
        groups.setdefault(tuple(places[figure]), []).append(figure)
    return [[{name: rows[place][name] for name in ("step", *names)} for place in key] for key, names in groups.items()]


def _thinned(name: str, rows: Sequence[Mapping[str, float]], most: int) -> dict[str, Any]:
    """At most so many rows, evenly spaced, the first and the last among them."""
    last = len(rows) - 1
    kept = rows if last < most else [rows[round(last * number / (most - 1))] for number in range(most)]
    series = {figure: [float(f"{row[figure]:.4g}") for row in kept] for figure in rows[0] if figure != "step"}
    return {"stage": name, "steps": [int(row["step"]) for row in kept], "series": series}


def _stage(path: Path) -> tuple[int, str]:
    """Stages are named `<number>-<name>`."""
    number, _, name = path.parent.name.partition("-")
    return (int(number) if number.isdecimal() else 0), name
