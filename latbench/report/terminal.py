"""The tables for a terminal: as many columns as fit its width, those of interest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latbench.report.columns import DASH, legend
from latbench.report.table import Table
from latbench.report.task_sections import NOTHING, Section
from latbench.util.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

PADDING = 2  # between two columns
NAMES, WORDS = 4, 8  # a name may have a fourth of the width, other words an eighth
KEPT = 3  # columns that are never left out


def to_terminal(sections: Sequence[Section], width: int, *, with_legend: bool = False) -> list[RenderableType]:
    """What rich prints: per section its title, facts and main table.

    Args:
        sections: as in every format.
        width: of the terminal, in characters.
        with_legend: what the columns mean, below.
    """
    from rich.text import Text

    parts: list[RenderableType] = []
    for section in sections:
        parts += [Text(section.title, style="bold"), Text(section.facts + "\n", style="dim")]
        parts += [to_rich(section.tables[0], width), Text("")]
    if not sections:
        parts.append(Text(NOTHING))
    if with_legend:
        parts.append(Text(legend()))
    return parts


def fitting(table: Table, width: int) -> Table:
    """The columns that fit: those of interest that are not zero or empty throughout, from left to right.

    Where they do not all fit, figures after the first (the accuracy) do without their intervals, then the last go.

    Args:
        table: of a section.
        width: of the terminal, in characters.
    """
    shown = [place for place, head in enumerate(table.heads) if head.is_front and not _is_empty(table, place)]
    kept = _only(table, shown)
    if _width(kept, width) > width:
        first = next(place for place, head in enumerate(kept.heads) if not head.is_text)
        kept = replace(kept, lines=tuple(_without_intervals(line, first + 1) for line in kept.lines))
    while len(kept.heads) > KEPT and _width(kept, width) > width:
        kept = _only(kept, range(len(kept.heads) - 1))
    return kept


def _without_intervals(line: Sequence[str], start: int) -> tuple[str, ...]:
    return (*line[:start], *(text.split(" [")[0] for text in line[start:]))


def _only(table: Table, places: Sequence[int]) -> Table:
    lines = tuple(tuple(line[place] for place in places) for line in table.lines)
    return replace(table, heads=tuple(table.heads[place] for place in places), lines=lines)


def _is_empty(table: Table, place: int) -> bool:
    texts = {line[place] for line in table.lines}
    return texts <= {DASH} or (not table.heads[place].is_text and texts <= {DASH, "0.0"})


def _width(table: Table, width: int) -> int:
    longest = [max(map(len, texts)) for texts in zip(table.headings, *table.lines, strict=True)]
    most = [_most(table, place, width) or length for place, length in enumerate(longest)]
    return sum(map(min, longest, most)) + PADDING * len(longest)


def _most(table: Table, place: int, width: int) -> int | None:
    """The width that a column of words may have; longer ones go on in the next line."""
    if not table.heads[place].is_text:
        return None
    is_name = all(head.is_text for head in table.heads[:place])
    return max(9, width // (NAMES if is_name else WORDS))


def to_rich(table: Table, width: int) -> RenderableType:
    """What rich prints of one table: the columns that fit.

    Args:
        table: any.
        width: of the terminal, in characters.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, PADDING, 0, 0), show_edge=False)
    kept = fitting(table, width)
    for place, head in enumerate(kept.heads):
        made.add_column(
            Text(plain(head.name)),
            justify="left" if head.is_text else "right",
            max_width=_most(kept, place, width),
            no_wrap=not head.is_text,
            overflow="fold",
        )
    for line in kept.lines:
        made.add_row(*map(Text, line))
    return made


def names_and_texts(texts: Mapping[str, str], width: int) -> RenderableType:
    """What rich prints of names and what is said of each; long names stand on a line of their own.

    Args:
        texts: by name.
        width: of the terminal, in characters.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    longest = max(map(len, texts), default=0)
    if longest <= width // 3:
        grid = RichTable.grid(padding=(0, PADDING, 0, 0))
        for name, text in texts.items():
            grid.add_row(Text(name, style="bold"), Text(plain(text)))
        return grid
    pairs = texts.items()
    return Group(*(part for name, text in pairs for part in (Text(name, style="bold"), Padding(plain(text), (0, 4)))))
