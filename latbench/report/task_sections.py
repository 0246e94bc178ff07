"""The sections of a leaderboard: one per task, split and test set, with all that is shown of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latbench.report.cells import Cell, Row, cells, comparable
from latbench.report.columns import SHARED, Column, diagnostics, leaderboard_columns, names
from latbench.report.measure_tables import Measured, measure_tables
from latbench.report.table import Line, Table, head, table
from latbench.util.text import plain

NOTHING = "No complete evaluation."


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is comparable: the cells of one task, split and test set, and their tables."""

    title: str
    facts: str
    """What all cells share: questions, the reference of compression, parts of the identity."""
    tables: tuple[Table, ...]
    """The first has a line per cell; the others show what training reported and what was measured of some cells."""
    cells: tuple[Cell, ...]


def report_sections(rows: Sequence[Row]) -> list[Section]:
    """The sections of every format, in the order of the cells."""
    return [_section(found) for found in comparable(cells(rows))]


def section_names(sections: Sequence[Section]) -> list[str]:
    """The title of each section; several test sets of one split are told apart by their size and hash."""
    titles = [section.title for section in sections]
    made = []
    for section in sections:
        _, _, n, test_set = section.cells[0].section
        is_alone = titles.count(section.title) == 1
        made.append(section.title if is_alone else f"{section.title}, n = {n}, {test_set[:4]}")
    return made


def _section(section: Sequence[Cell]) -> Section:
    task, split, n, test_set = section[0].section
    telling = names(section)
    tables = [_table("", section, leaderboard_columns(), section)]
    reporting = [cell for cell in section if any(row.manifest.diagnostics for row in cell.rows)]
    if reporting:
        columns = diagnostics([row for cell in reporting for row in cell.rows])
        tables.append(_table("What training reported (means over seeds):", reporting, columns, section))
    measured = [
        Measured(_texts(telling, cell), [row.measures for row in cell.rows], place)
        for place, cell in enumerate(section)
    ]
    tables += measure_tables([head(column) for column in telling], measured)
    shared = [column for column in SHARED if column not in telling]
    common = "".join(f" {column.heading.capitalize()}: {column.of(section[0].rows[0])}." for column in shared)
    facts = f"{n} questions (test set {test_set}). Reference for compression: {_references(section)}.{common}"
    return Section(title=plain(f"{task} / {split}"), facts=plain(facts), tables=tuple(tables), cells=tuple(section))


def _table(title: str, cells: Sequence[Cell], columns: Sequence[Column[Row]], section: Sequence[Cell]) -> Table:
    """The table of some cells of a section."""
    telling = names(cells)
    places = {id(cell): place for place, cell in enumerate(section)}
    lines = [Line(_texts(telling, cell), cell.rows, places[id(cell)]) for cell in cells]
    return table(title, [head(column) for column in telling], columns, lines)


def _texts(columns: Sequence[Column[Row]], cell: Cell) -> tuple[str, ...]:
    return tuple(column.text(cell.rows) for column in columns)


def _references(section: Sequence[Cell]) -> str:
    """Every reference of a section with its mean #L, which depends on the tokenizer."""
    found: dict[str, None] = {}
    for cell in section:
        row = cell.rows[0]
        if (length := row.reference.mean_length) is not None:
            found[f"{row.reference.name} (mean #L {length:.1f}, {row.identity.backbone})"] = None
    return "; ".join(found) or "none"
