"""Averages over tasks: every line of a table is a mean over the same tasks, which the table names.

A line is a setting of a method on one backbone: one run that was evaluated on several tasks, or runs of one variant
that were trained for each of them. One test set of a task counts: the one that most settings were evaluated on. Of a
setting those seeds count that it has on every task. The tables of a backbone differ in their tasks: few settings stand
in many tasks, more settings in few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from typing import Any

from latbench.evaluation.statistics import Interval, mean_of_estimates, over_seeds
from latbench.report.cells import Cell, Identity, Row, ranks
from latbench.report.columns import (
    DASH,
    LAYOUT,
    METHOD,
    SETTING,
    TRAIN_DATA,
    VARIANT,
    Column,
    interval_text,
    number_text,
    rank_text,
)
from latbench.report.table import Head, Table, head
from latbench.report.task_sections import Section, section_names
from latbench.util.text import plain

TITLE = "Average over tasks"
MOST_TABLES = 3  # of a backbone: those with the most figures
FEWEST_TASKS, FEWEST_LINES = 2, 2  # one task is no average, and one line no comparison
LEGEND = (
    "Mean accuracy in %, each task with the same weight, over the tasks that a table names and that all its lines "
    "have. Brackets hold 95 % intervals: of one seed those of its tasks combined (MOVER), of several Student's t over "
    "the averages of the seeds. Seeds that a line lacks on some task are left out."
)
_FIGURES = (
    Head("seeds", legend="those that the line has on every task.", is_front=False),
    Head("average", legend="mean accuracy over the tasks of this table, in %."),
    Head("rank", legend="place by the average; brackets hold the best and the worst that the intervals allow."),
    Head("#L", legend="mean chain length over the same tasks."),
)
_OF_TASK = "accuracy on this task, in %, over the seeds that count."
Cells = Mapping[int, Cell]  # of one setting, by the place of their section


@dataclass(frozen=True, kw_only=True)
class AverageLine:
    """One setting on all tasks of a table."""

    rows: tuple[tuple[Row, ...], ...]
    """For each task, its row of each seed that all tasks have."""

    @property
    def identity(self) -> Identity:
        """That of the first task."""
        return self.rows[0][0].identity

    @cached_property
    def accuracy(self) -> Interval:
        """Mean over the tasks, a fraction, with its interval."""
        seeds = zip(*self.rows, strict=True)
        return _over_seeds([mean_of_estimates([row.summary.accuracy for row in seed]) for seed in seeds])

    @property
    def accuracies(self) -> list[Interval]:
        """Those of each task."""
        return [_over_seeds([row.summary.accuracy for row in task]) for task in self.rows]

    @property
    def chain_length(self) -> float | None:
        """Mean #L over tasks and seeds; None where some row has none."""
        lengths = [length.value for task in self.rows for row in task if (length := row.summary.chain_length)]
        return fsum(lengths) / len(lengths) if len(lengths) == sum(map(len, self.rows)) else None

    def text(self, column: Column[Row]) -> str:
        """What a column says of its tasks, each text once."""
        return "; ".join(dict.fromkeys(column.text(task) for task in self.rows))


@dataclass(frozen=True, kw_only=True)
class Average:
    """The settings of one backbone that were evaluated on all of some tasks."""

    backbone: str
    tasks: tuple[str, ...]
    """Names of their sections."""
    lines: tuple[AverageLine, ...]
    """Best first."""

    @cached_property
    def ranks(self) -> list[Interval]:
        """The place of each line, see `cells.ranks`."""
        return ranks([line.accuracy for line in self.lines])

    @cached_property
    def table(self) -> Table:
        """What all formats show."""
        telling = self._telling()
        shared = [column for column in (LAYOUT, TRAIN_DATA) if column not in telling]
        common = "".join(f" {column.heading.capitalize()}: {self.lines[0].text(column)}." for column in shared)
        title = f"{len(self.tasks)} tasks: {', '.join(self.tasks)}. Backbone: {self.backbone}.{common}"
        return Table(
            title=plain(title),
            heads=(*map(head, telling), *_FIGURES, *(Head(plain(task), legend=_OF_TASK) for task in self.tasks)),
            lines=tuple(
                (*(line.text(column) for column in telling), *_figures(line, rank))
                for line, rank in zip(self.lines, self.ranks, strict=True)
            ),
        )

    def _telling(self) -> list[Column[Row]]:
        """Method and variant, and what else tells the lines apart."""
        columns = [METHOD, VARIANT]
        columns += [column for column in (LAYOUT, TRAIN_DATA) if len({line.text(column) for line in self.lines}) > 1]
        told = {tuple(line.text(column) for column in columns) for line in self.lines}
        return columns if len(told) == len(self.lines) else [*columns, SETTING]

    def values(self) -> dict[str, Any]:
        """The numbers as JSON values; accuracies are fractions."""
        return {
            "backbone": self.backbone,
            "tasks": list(self.tasks),
            "lines": [
                {
                    "method": line.identity.method,
                    "variant": line.identity.variant,
                    "seeds": len(line.rows[0]),
                    "average": line.accuracy.value,
                    "average_low": line.accuracy.low,
                    "average_high": line.accuracy.high,
                    "rank": int(rank.value),
                    "chain_length": line.chain_length,
                    "accuracies": [accuracy.value for accuracy in line.accuracies],
                }
                for line, rank in zip(self.lines, self.ranks, strict=True)
            ],
        }


def averages(sections: Sequence[Section]) -> list[Average]:
    """The tables of every backbone that has two settings on the same two tasks.

    Args:
        sections: of the leaderboard.
    """
    names = section_names(sections)
    backbones = sorted({cell.identity.backbone for section in sections for cell in section.cells})
    made = []
    for backbone in backbones:
        settings = list(_settings(_test_sets(sections, backbone)))
        for tasks in _task_sets([frozenset(cells) for cells in settings])[:MOST_TABLES]:
            lines = [line for cells in settings if tasks <= cells.keys() and (line := _line(cells, sorted(tasks)))]
            if len(lines) >= FEWEST_LINES:
                best_first = sorted(lines, key=lambda line: (-line.accuracy.value, line.identity))
                named = tuple(names[place] for place in sorted(tasks))
                made.append(Average(backbone=backbone, tasks=named, lines=tuple(best_first)))
    return made


def _test_sets(sections: Sequence[Section], backbone: str) -> dict[int, list[Cell]]:
    """A backbone's cells by the place of their section; of the test sets of a task, the one with the most cells."""
    chosen: dict[str, tuple[int, list[Cell]]] = {}
    for place, section in enumerate(sections):
        own = [cell for cell in section.cells if cell.identity.backbone == backbone]
        if not own:
            continue
        task, _, n, _ = own[0].section
        known = chosen.get(task)
        if known is None or (len(own), n) > (len(known[1]), known[1][0].section[2]):
            chosen[task] = place, own
    return dict(chosen.values())


def _settings(found: Mapping[int, Sequence[Cell]]) -> Iterator[Cells]:
    """The cells of one method, variant and layout; where a task has several of these, those of one training each."""
    variants: dict[tuple[str, ...], dict[int, list[Cell]]] = {}
    for place, cells in found.items():
        for cell in cells:
            key = cell.identity.method, cell.identity.variant, cell.identity.layout
            variants.setdefault(key, {}).setdefault(place, []).append(cell)
    for by_task in variants.values():
        if all(len(cells) == 1 for cells in by_task.values()):
            yield {place: cells[0] for place, cells in by_task.items()}
            continue
        trainings: dict[tuple[str, str], dict[int, Cell]] = {}
        for place, cells in by_task.items():
            for cell in cells:
                trainings.setdefault((cell.identity.setting, cell.identity.train_data), {})[place] = cell
        yield from trainings.values()


def _task_sets(settings: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Sets of tasks that two settings share, each with all tasks that its settings share; the most figures first."""
    found: dict[frozenset[int], int] = {}
    for place, one in enumerate(settings):
        for other in settings[place + 1 :]:
            tasks = one & other
            if len(tasks) >= FEWEST_TASKS and tasks not in found:
                found[tasks] = sum(tasks <= each for each in settings)
    return sorted(found, key=lambda tasks: (-len(tasks) * found[tasks], -len(tasks), sorted(tasks)))


def _line(cells: Cells, tasks: Sequence[int]) -> AverageLine | None:
    """A setting on these tasks; None where no seed has them all."""
    by_seed = [{row.manifest.seed: row for row in cells[place].rows} for place in tasks]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    return AverageLine(rows=tuple(tuple(rows[seed] for seed in seeds) for rows in by_seed)) if seeds else None


def _figures(line: AverageLine, rank: Interval) -> tuple[str, ...]:
    length = DASH if line.chain_length is None else number_text(line.chain_length, ".1f")
    accuracies = (interval_text(accuracy, 100) for accuracy in line.accuracies)
    return str(len(line.rows[0])), interval_text(line.accuracy, 100), rank_text(rank), length, *accuracies


def _over_seeds(found: Sequence[Interval]) -> Interval:
    made = over_seeds(found, high=1)
    assert made is not None, "a line has a seed"
    return made
