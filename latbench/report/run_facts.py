"""What the page tells of a run: where its numbers come from, in JSON values of which equal parts stand once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from latbench.evaluation.metrics import caveats
from latbench.evaluation.records import records_path
from latbench.evaluation.statistics import Interval
from latbench.report.cells import Row
from latbench.report.columns import COLUMNS, IDENTITY
from latbench.util.text import cut

Json = dict[str, Any]


class Pool:
    """Values that many runs share, such as package versions: each stands once, and is named by its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Where a value stands, which is put there if need be."""
        text = json.dumps(value, sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def values(row: Row) -> Json:
    """The numbers and names of a run by column of the CSV, with six significant digits.

    None is what is not known, "inf" and "-inf" are bounds of an interval that has none.
    """
    columns = (column for column in (*IDENTITY, *COLUMNS) if column.csv)
    return {column.csv: _value(column.of(row)) for column in columns}


def run_facts(row: Row, pool: Pool, max_prompt: int) -> Json:
    """Configuration, command, commit, versions, data, prompt and costs of a run.

    Args:
        row: the run.
        pool: takes the values that are an object; the facts have their places in it.
        max_prompt: characters of each text of its prompt; longer ones are cut.
    """
    manifest = row.manifest
    path = records_path(row.summary.folder)
    return {
        "command": manifest.command,
        "created": manifest.created,
        "commit": manifest.git_commit,
        "dirty": manifest.git_dirty,
        "records": path.name if path else None,
        "questions": manifest.questions_sha256,
        "caveats": [caveat.sentence for caveat in caveats(row.summary)],
        "config": {name: pool.place(part) for name, part in manifest.config.items()},
        "data": pool.place({name: vars(found) for name, found in manifest.data.items()}),
        "versions": pool.place(manifest.versions),
        "hardware": pool.place(manifest.hardware),
        "prompt": pool.place({name: cut(text, max_prompt) for name, text in (manifest.prompt or {}).items()}),
        "costs": {"training": manifest.train, "evaluation": manifest.evaluation, "diagnostics": manifest.diagnostics},
    }


def places(rows: Sequence[Row], tops: Sequence[Path]) -> list[str]:
    """For each run the path of its evaluation below what all folders share: the run's name on the page.

    Args:
        rows: the runs.
        tops: the folders that were searched.
    """
    root = Path(os.path.commonpath([top.absolute() for top in tops])) if tops else Path.cwd()
    found = []
    for row in rows:
        path = row.summary.folder.absolute()
        below = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        found.append(row.manifest.run if below == "." else below)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, Interval):
        return _value(value.value)
    if isinstance(value, Mapping):
        return {str(name): part.value if isinstance(part, Interval) else part for name, part in value.items()}
    if isinstance(value, float):  # JSON has no word for what is unbounded
        return float(f"{value:.6g}") if isfinite(value) else str(value)
    return value
