"""The tables for a terminal: as many columns as fit its width, those of interest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latbench.report.averages import LEGEND, TITLE, Average
from latbench.report.columns import DASH, legend
from latbench.report.table import Head, Table
from latbench.report.task_sections import NOTHING, Section
from latbench.util.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

PADDING = 2  # between two columns, one of which rich draws as their border
NAMES, WORDS = 4, 8  # a name may have a fourth of the width, other words an eighth
KEPT = 3  # columns that are never left out
LAST_TO_GO = ("#L", "compression")  # of the others


def to_terminal(
    sections: Sequence[Section], width: int, *, averages: Sequence[Average] = (), with_legend: bool = False
) -> list[RenderableType]:
    """What rich prints: per section its title, facts and main table, then the averages over tasks.

    Args:
        sections: as in every format.
        averages: as in every format.
        width: of the terminal, in characters.
        with_legend: what the columns mean, below.
    """
    from rich.text import Text

    parts: list[RenderableType] = []
    for section in sections:
        table = section.tables[0]
        common = "".join(f" {name.capitalize()} of all: {text}." for name, text in _common(table).values())
        parts += [Text(section.title, style="bold"), Text(section.facts + common + "\n", style="dim")]
        parts += [to_rich(table, width), Text("")]
    if averages:
        parts += [Text(TITLE, style="bold"), Text(LEGEND, style="dim")]
    for average in averages:
        parts += [Text(average.table.title + "\n", style="dim"), to_rich(average.table, width), Text("")]
    if not sections:
        parts.append(Text(NOTHING))
    if with_legend:
        parts.append(Text(legend()))
    return parts


def fitting(table: Table, width: int) -> Table:
    """The columns of interest that fit, from left to right; none that is zero, empty or the same words throughout.

    Where they do not all fit, figures after the first (the accuracy) do without their intervals, then the last go, #L
    and compression after all others.

    Args:
        table: of a section.
        width: of the terminal, in characters.
    """
    left_out = _common(table)
    shown = [
        place
        for place, head in enumerate(table.heads)
        if head.is_front and place not in left_out and not _is_empty(table, place)
    ]
    kept = _only(table, shown)
    if _width(kept, width) > width:
        first = next(place for place, head in enumerate(kept.heads) if not head.is_text)
        kept = replace(kept, lines=tuple(_without_intervals(line, first + 1) for line in kept.lines))
    while len(kept.heads) > KEPT and _width(kept, width) > width:
        later = range(KEPT, len(kept.heads))
        last = max(later, key=lambda place: (kept.heads[place].name not in LAST_TO_GO, place))
        kept = _only(kept, [place for place in range(len(kept.heads)) if place != last])
    return kept


def upright(table: Table) -> Table:
    """The table turned over: a line for each column, a column for each line, whose name is its first word.

    Args:
        table: of few lines.
    """
    heads = (Head("", is_text=True), *(Head(line[0]) for line in table.lines))
    columns = list(zip(*table.lines, strict=True))[1:]
    return Table(heads=heads, lines=tuple(zip(table.headings[1:], *zip(*columns, strict=True), strict=True)))


def _without_intervals(line: Sequence[str], start: int) -> tuple[str, ...]:
    return (*line[:start], *(text.split(" [")[0] for text in line[start:]))


def _only(table: Table, places: Sequence[int]) -> Table:
    lines = tuple(tuple(line[place] for place in places) for line in table.lines)
    return replace(table, heads=tuple(table.heads[place] for place in places), lines=lines)


def _is_empty(table: Table, place: int) -> bool:
    texts = {line[place] for line in table.lines}
    return texts <= {DASH} or (not table.heads[place].is_text and texts <= {DASH, "0.0"})


def _common(table: Table) -> dict[int, tuple[str, str]]:
    """By place, the columns of words, names excepted, that say one thing of all of several lines: heading and words."""
    first = next((place for place, head in enumerate(table.heads) if not head.is_text), len(table.heads))
    found = {place: {line[place] for line in table.lines} for place in range(first, len(table.heads))}
    return {
        place: (table.heads[place].name, table.lines[0][place])
        for place, texts in found.items()
        if table.heads[place].is_text and table.heads[place].is_front and len(table.lines) > 1 == len(texts)
        if texts != {DASH} and texts != {""}
    }


def broken(text: str, width: int) -> str:
    """The text with a space after a `.`, `_` or `=` in each word that is wider than a column, where a line may end.

    Args:
        text: of one cell.
        width: of the column, in characters.
    """
    return " ".join(part for word in text.split(" ") for part in _parts(word, width))


def _parts(word: str, width: int) -> Iterator[str]:
    while len(word) > width:
        cut = 1 + max(word.rfind(sign, 0, width) for sign in "._=,/")
        yield word[: cut or width]
        word = word[cut or width :]
    yield word


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

    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, PADDING - 1, 0, 0), show_edge=False)
    kept = fitting(table, width)
    for place, head in enumerate(kept.heads):
        made.add_column(
            Text(plain(head.name)),
            justify="left" if head.is_text else "right",
            max_width=_most(kept, place, width),
            no_wrap=not head.is_text,
            overflow="fold",
        )
    most = [_most(kept, place, width) or width for place in range(len(kept.heads))]
    for line in kept.lines:
        made.add_row(*(Text(broken(text, room)) for text, room in zip(line, most, strict=True)))
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
