r"""The tables as LaTeX: booktabs, one table per section, everything escaped.

The text is a fragment for \input; its preamble needs booktabs and graphicx (wide tables are shrunk to the line), and
an engine that reads UTF-8 (any since 2018).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from latbench.report.averages import LEGEND as AVERAGE_LEGEND
from latbench.report.averages import TITLE as AVERAGE_TITLE
from latbench.report.averages import Average
from latbench.report.columns import meanings
from latbench.report.reported import LEGEND as REPORTED_LEGEND
from latbench.report.reported import TITLE, Reported, reported_tables
from latbench.report.table import Table
from latbench.report.task_sections import NOTHING, Section
from latbench.util.text import plain

HEAD = "% Leaderboard of latbench; preamble: \\usepackage{booktabs,graphicx}"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "…": r"\dots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def to_latex(sections: Sequence[Section], reported: Sequence[Reported] = (), averages: Sequence[Average] = ()) -> str:
    r"""One `table*` environment per table, labelled `tab:latbench-1` and so on.

    Args:
        reported: published numbers, in tables of their own whose captions say so.
        averages: means over tasks, in tables of their own.
    """
    environments: list[str] = []
    for section in sections:
        for number, table in enumerate(section.tables):
            caption = f"{section.title}. {section.facts}" if not number else f"{section.title}. {table.title}"
            environments.append(_environment(table, caption, len(environments) + 1))
    for average in averages:
        caption = f"{AVERAGE_TITLE}. {average.table.title} {AVERAGE_LEGEND}"
        environments.append(_environment(average.table, caption, len(environments) + 1))
    if not environments:
        environments.append(f"% {NOTHING}")
    for number, table in enumerate(reported_tables(reported)):
        legend = f" {REPORTED_LEGEND}" if not number else ""
        environments.append(_environment(table, f"{TITLE}: {table.title}.{legend}", len(environments) + 1))
    meant = [textwrap.fill(text, 120, initial_indent="% ", subsequent_indent="%   ") for text in meanings()]
    return "\n\n".join(["\n".join([HEAD, *meant]), *environments]) + "\n"


def latex_text(text: str) -> str:
    """Plain text that LaTeX sets as it stands."""
    return re.sub(".", lambda match: _SPECIAL.get(match.group(), match.group()), plain(text))


def _environment(table: Table, caption: str, number: int) -> str:
    sides = "".join("l" if head.is_text else "r" for head in table.heads)
    lines = [_line(line) for line in (table.headings, *table.lines)]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{tab:latbench-{number}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
        ]
    )


def _line(texts: Sequence[str]) -> str:
    r"""A row; what begins with a bracket or a star would be read as an argument of the \\ before it."""
    joined = " & ".join(map(latex_text, texts))
    return ("{}" if joined.startswith(("[", "*")) else "") + joined + r" \\"
