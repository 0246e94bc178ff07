"""A table as plain text, whatever it is written in, and how columns and lines make one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from latbench.report.columns import Column

T = TypeVar("T")


@dataclass(frozen=True)
class Head:
    """What stands above a column."""

    name: str
    is_text: bool = False
    """Whether the column holds words (aligned left), not figures."""
    legend: str = ""
    """What it means."""
    is_front: bool = True
    """Whether the page shows the column before it is asked to."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as plain text."""

    title: str = ""
    """What stands above it; "" for the main one of a section."""
    heads: tuple[Head, ...]
    lines: tuple[tuple[str, ...], ...]
    cells: tuple[int | None, ...] = ()
    """Of each line the place of its cell in the section; () where the lines are of no cells."""

    @property
    def headings(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(head.name for head in self.heads)


@dataclass(frozen=True)
class Line(Generic[T]):
    """What one line of a table shows."""

    names: tuple[str, ...]
    """What tells it from the other lines."""
    items: Sequence[T]
    """What it averages over, one per seed."""
    cell: int | None = None
    """Place in the section of the cell that it is of."""


def table(title: str, names: Sequence[Head], columns: Sequence[Column[T]], lines: Sequence[Line[T]]) -> Table:
    """The table of these lines: their names, and each column that has something to show of them.

    Args:
        title: what stands above it.
        names: heads of the names of the lines.
        columns: from left to right.
        lines: from top to bottom.
    """
    items = list(chain.from_iterable(line.items for line in lines))
    shown = [one for column in columns for one in column.shown(items)]
    return Table(
        title=title,
        heads=(*names, *map(head, shown)),
        lines=tuple((*line.names, *(column.text(line.items) for column in shown)) for line in lines),
        cells=tuple(line.cell for line in lines),
    )


def head(column: Column[T]) -> Head:
    """What stands above a column."""
    return Head(column.heading, column.is_text, column.legend, column.is_front)
