"""What the evaluations of a sweep show: one row for each that is complete, as they arrive and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import MANIFEST, read_evaluation, read_manifest
from latbench.evaluation.statistics import Interval
from latbench.report.columns import interval_text
from latbench.report.table import Head, Table
from latbench.sweeps.sweep import Member, SweepConfig

HEADS = (Head("run", is_text=True), Head("task", is_text=True), Head("setting", is_text=True), Head("n"),
         Head("accuracy (%)"), Head("#L"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One evaluation of a sweep."""

    run: str
    """Name of the run's folder."""
    task: str
    """Its questions, with the split."""
    variant: str
    """The settings that are not the defaults."""
    n: int
    """Questions."""
    accuracy: Interval
    """A fraction, with the interval of one run."""
    chain_length: Interval | None
    """Mean #L; None where no chain is known."""

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `HEADS`."""
        accuracy, length = interval_text(self.accuracy, 100), interval_text(self.chain_length)
        return (self.run, self.task, self.variant or "default", str(self.n), accuracy, length)

    @property
    def sentence(self) -> str:
        """In one line, for a log."""
        run, task, _, n, accuracy, length = self.cells
        return f"{run} on {task}: accuracy (%) {accuracy}, #L {length}, {n} questions"


def rows_of(member: Member, sweep: SweepConfig) -> list[SweepRow]:
    """The complete evaluations of a run.

    Args:
        member: the run with its evaluations.
        sweep: that asks for them.
    """
    rows = []
    for job in member.jobs(sweep):
        if not (job.folder / MANIFEST).exists() or not read_manifest(job.folder).complete:
            continue
        summary = summarise(read_evaluation(job.folder))
        rows.append(
            SweepRow(
                run=member.run.folder.name,
                task=f"{summary.manifest.task}/{summary.manifest.split}",
                variant=summary.manifest.variant,
                n=summary.n,
                accuracy=summary.accuracy,
                chain_length=summary.chain_length,
            )
        )
    return rows


def table_of(rows: Sequence[SweepRow]) -> Table:
    """The rows as a table.

    Args:
        rows: of evaluations, in the order of the sweep.
    """
    return Table(heads=HEADS, lines=tuple(row.cells for row in rows))
