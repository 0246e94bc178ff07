"""Numbers that papers report, with their source: shown on demand, marked as such, never mixed with measured cells."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

from latbench.report.markdown import markdown_table, markdown_text
from latbench.report.table import Head, Table

REPORTED = "reported.csv"
TITLE = "Reported, not measured"
SOURCE = "source"  # heading of the column that names a paper
LEGEND = (
    "Numbers that papers report on their own training data, budgets, checkers and ways of counting; latbench has "
    "measured none of them, and they are not comparable with the tables of this leaderboard or with each other. "
    "Accuracy is %; #L is the paper's chain length, tokens all generated tokens; ± is the spread that the paper gives. "
    "Read from: table (of the paper), plot (read off it), project page, repository, secondary (another text's account)."
)
_METRICS = {
    "accuracy": "%, as printed, with the spread that the paper gives.",
    "#L": "the paper's chain length.",
    "tokens": "all generated tokens.",
    "pass@64": "% of questions of which one of 64 answers is right.",
}
_COMMITTED = Path(__file__).parents[2] / "results" / REPORTED  # of a checkout; an installed package has none


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One published number, a line of the file; "" where the source says nothing.

    Args:
        paper: where it stands.
        arxiv: number of that paper.
        table: of that paper.
        method: registered name, where there is one.
        variant: setting, in the paper's words.
        backbone: language model.
        trained_on: training data.
        task: registered name, where there is one.
        metric: accuracy (%), #L, tokens (all generated), pass@64 (%), or the paper's own word.
        value: as printed.
        spread: what the paper gives after ±.
        quality: how it was read (table, plot, project page, repository, secondary).
        note: anything else about it.
    """

    paper: str
    arxiv: str
    table: str
    method: str
    variant: str
    backbone: str
    trained_on: str
    task: str
    metric: str
    value: str
    spread: str
    quality: str
    note: str

    @property
    def source(self) -> str:
        """Paper, table and arXiv number."""
        place = ", ".join(filter(None, (self.paper, self.table)))
        return f"{place} (arXiv:{self.arxiv})" if self.arxiv else place


def find_reported(folders: Sequence[Path]) -> Path | None:
    """`reported.csv` in one of the folders, else that of the checkout; None where there is neither."""
    candidates = [*(folder / REPORTED for folder in folders), _COMMITTED]
    return next((path for path in candidates if path.is_file()), None)


def read_reported(path: Path) -> list[Reported]:
    """All published numbers of a file, in its order.

    Raises: ValueError: columns are missing or unknown, a value is no number, or a line has no source or stands twice.
    """
    names = [f.name for f in fields(Reported)]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(f"{path} must have the columns {', '.join(names)}, got {reader.fieldnames}")
        found: dict[tuple[str, ...], Reported] = {}
        for line in reader:
            where = f"{path}, line {reader.line_num}"
            if None in line or None in line.values():
                raise ValueError(f"{where} has not {len(names)} fields; quote a field that holds a comma")
            row = Reported(**line)
            if not row.paper or not row.task or not row.metric:
                raise ValueError(f"{where} lacks paper, task or metric; a published number needs its source")
            if not _is_number(row.value) or not (row.spread == "" or _is_number(row.spread)):
                raise ValueError(f"{where}: value {row.value!r} or spread {row.spread!r} is not a number")
            if found.setdefault((row.metric, *_setting(row)), row) is not row:
                raise ValueError(f"{where} repeats the {row.metric} of {row.method} on {row.task} from {row.source}")
    return list(found.values())


def reported_tables(rows: Sequence[Reported]) -> list[Table]:
    """One table per task, one line per setting of a source, one column per metric; titles are the tasks."""
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        metrics = list(dict.fromkeys(row.metric for row in own))
        lines: dict[tuple[str, ...], dict[str, Reported]] = {}
        for row in own:
            lines.setdefault(_setting(row), {})[row.metric] = row
        heads = (
            *_text(method="registered name, where there is one.", variant="setting, in the paper's words."),
            *_text(**{"backbone": "language model.", "trained on": "training data."}),
            *(Head(metric, legend=_METRICS.get(metric, "as the paper reports it.")) for metric in metrics),
            *_text(**{SOURCE: "paper and table.", "read from": "how it was read, and anything else about it."}),
        )
        tables.append(Table(title=task, heads=heads, lines=tuple(_line(found, metrics) for found in lines.values())))
    return tables


def reported_markdown(rows: Sequence[Reported]) -> str:
    """A section of its own, to stand below the measured tables."""
    parts = [f"# {TITLE}", LEGEND]
    for table in reported_tables(rows):
        parts += [f"## Reported: {markdown_text(table.title)}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def _text(**legends: str) -> list[Head]:
    return [Head(name, is_text=True, legend=legend) for name, legend in legends.items()]


def _setting(row: Reported) -> tuple[str, ...]:
    return row.task, row.paper, row.arxiv, row.table, row.method, row.variant, row.backbone, row.trained_on


def _line(found: dict[str, Reported], metrics: Sequence[str]) -> tuple[str, ...]:
    first = next(iter(found.values()))
    figures = ["–" if name not in found else _figure(found[name]) for name in metrics]
    notes = dict.fromkeys(f"{row.quality}: {row.note}" if row.note else row.quality for row in found.values())
    return first.method, first.variant, first.backbone, first.trained_on, *figures, first.source, "; ".join(notes)


def _figure(row: Reported) -> str:
    return f"{row.value} ± {row.spread}" if row.spread else row.value


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
