"""The small table at the end of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from latbench.cli.console import say
from latbench.evaluation.metrics import Summary, caveats
from latbench.report.cells import Row, rows
from latbench.report.columns import COLUMNS, Column
from latbench.report.markdown import markdown_table
from latbench.report.table import Head, Line, Table, table
from latbench.runs.lock import is_main_process
from latbench.task import Status

FIGURES = ("accuracy", "#L", "compression", "answers/s")
VERDICTS: tuple[Status, ...] = (
    "correct",
    "no_answer",
    "timeout",
    "incorrect",
)  # the last goes first where it is narrow


def show(summaries: Sequence[Summary]) -> None:
    """Print the table: fitted to a terminal, as Markdown where standard output is piped.

    Where a terminal is too narrow for all columns, a few evaluations are shown side by side, a figure on each line.
    """
    made = eval_table(summaries)
    if not sys.stdout.isatty():
        say(markdown_table(made))
    elif is_main_process():
        from rich.console import Console

        from latbench.report.terminal import fitting, to_rich, upright

        console = Console()
        is_whole = fitting(made, console.width).headings == made.headings
        if not is_whole and fitting(turned := upright(made), console.width).headings == turned.headings:
            made = turned
        console.print(to_rich(made, console.width))


def eval_table(summaries: Sequence[Summary]) -> Table:
    """A line per evaluation: accuracy with its interval, #L, compression, verdicts, answers per second.

    Compression is over the gold chain: where the data have none, the leaderboard may know a run that stands in for it.
    """
    each = [_row(summary) for summary in summaries]
    lines = [Line((f"{row.identity.task}/{row.identity.split}, n={row.summary.n}",), [row]) for row in each]
    columns = [*_known(FIGURES), *map(_verdicts, VERDICTS)]
    return table("", [Head("task", is_text=True)], columns, lines)


def notices(summary: Summary) -> list[str]:
    """What is known against the numbers of an evaluation, one sentence each.

    Chains of unknown length are among it here alone: the leaderboard has a column for them.
    """
    unknown = f"the chain of {100 * summary.unknown_length:.1f} % of its answers is unknown: they are left out of #L"
    return [*(caveat.sentence for caveat in caveats(summary)), *([unknown] if summary.unknown_length else [])]


def _row(summary: Summary) -> Row:
    """The row of an evaluation by itself, in which no run stands in for the gold chain, not even its own."""
    row = rows([summary])[0]
    return row if summary.gold_lengths else replace(row, compression=None)


def _known(headings: Sequence[str]) -> list[Column[Row]]:
    by_heading = {column.heading: column for column in COLUMNS if column.heading}
    return [replace(by_heading[heading], is_front=True) for heading in headings]


def _verdicts(status: Status) -> Column[Row]:
    """How many answers have a verdict; left out where none has."""

    def number(row: Row) -> int:
        return row.summary.statuses.get(status, 0)

    return Column(
        status.replace("_", " "),
        number,
        is_front=True,
        when=lambda items: status in ("correct", "incorrect") or any(map(number, items)),
    )
