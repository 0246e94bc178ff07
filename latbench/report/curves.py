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
MAX_SERIES = 12  # of a stage
POINTS = (60, 30, 15)  # most points of a curve, fewer where they have more bytes than they may
FEWEST = 5


def curves(folder: Path, manifest: Manifest, max_bytes: int) -> list[dict[str, Any]]:
    """What was logged in training: per stage its name, the steps, and a list of values by figure.

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
        made = [_thinned(name, rows, most) for name, rows in logs.items() if rows]
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


def _thinned(name: str, rows: Sequence[Mapping[str, float]], most: int) -> dict[str, Any]:
    """At most so many rows, evenly spaced, the last among them."""
    every = -(-len(rows) // most)
    kept = rows[(len(rows) - 1) % every :: every]
    figures = dict.fromkeys(figure for row in kept for figure in row if figure not in ("step", "epoch"))
    series = {
        figure: [None if (value := row.get(figure)) is None else float(f"{value:.4g}") for row in kept]
        for figure in list(figures)[:MAX_SERIES]
    }
    return {"stage": name, "steps": [int(row["step"]) for row in kept], "series": series}


def _stage(path: Path) -> tuple[int, str]:
    """Stages are named `<number>-<name>`."""
    number, _, name = path.parent.name.partition("-")
    return (int(number) if number.isdecimal() else 0), name
