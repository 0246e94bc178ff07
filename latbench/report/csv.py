"""The rows as CSV: one line per run, every column that has a name there.

A spreadsheet takes a cell that begins with one of `=`, `+`, `-` and `@` for a formula and runs it; such a text, which a
submission may hold, gets an apostrophe before it (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from latbench.evaluation.statistics import Interval
from latbench.report.cells import Row
from latbench.report.columns import COLUMNS, IDENTITY
from latbench.util.text import plain

_FORMULA = ("=", "+", "-", "@")


def to_csv(rows: Sequence[Row]) -> str:
    """One line per run; numbers with six significant digits, an empty field for what is not known."""
    columns = [column for column in (*IDENTITY, *COLUMNS) if column.csv]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.csv for column in columns)
    writer.writerows([_field(column.of(row)) for column in columns] for row in rows)
    return text.getvalue()


def _field(value: object) -> object:
    if isinstance(value, Mapping):
        found = {name: one.value if isinstance(one, Interval) else one for name, one in value.items()}
        return json.dumps(found) if found else ""
    number = value.value if isinstance(value, Interval) else value
    if isinstance(number, str):
        text = plain(number)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return f"{number:.6g}" if isinstance(number, float) else number
