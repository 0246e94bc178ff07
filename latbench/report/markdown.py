"""The tables as Markdown, in GitHub's dialect."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.report.averages import LEGEND, TITLE, Average
from latbench.report.columns import legend
from latbench.report.table import Table
from latbench.report.task_sections import NOTHING, Section
from latbench.util.text import plain


def to_markdown(sections: Sequence[Section], averages: Sequence[Average] = ()) -> str:
    """What the numbers mean, then one part per section, then the averages over several of them."""
    parts = ["# Leaderboard", legend()]
    parts += [_markdown_section(section) for section in sections] or [NOTHING]
    if averages:
        parts += [f"## {TITLE}", LEGEND, markdown_tables([average.table for average in averages])]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """The table alone."""
    from tabulate import tabulate

    return tabulate(
        [[markdown_text(text) for text in line] for line in table.lines],
        headers=[markdown_text(head.name) for head in table.heads],
        tablefmt="github",
        disable_numparse=True,
        colalign=["left" if head.is_text else "right" for head in table.heads],
    )


def markdown_tables(tables: Sequence[Table]) -> str:
    """Tables below each other, each below its title."""
    parts = (part for table in tables for part in (markdown_text(table.title), markdown_table(table)))
    return "\n\n".join(filter(None, parts))


def markdown_text(text: str) -> str:
    """Text that stays in its cell of a Markdown table and can be encoded."""
    return plain(text).replace("|", "\\|")


def _markdown_section(section: Section) -> str:
    facts = [f"## {markdown_text(section.title)}", markdown_text(section.facts)]
    return "\n\n".join([*facts, markdown_tables(section.tables)])
