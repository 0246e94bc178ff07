"""Rows (one per run) and cells (runs that differ in the seed alone): what every table and picture shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from latbench.evaluation.metrics import Summary, compression
from latbench.evaluation.records import Manifest
from latbench.evaluation.statistics import Interval, over_seeds
from latbench.measures.measure_files import Measures

REFERENCE_METHOD = "cot"  # stands in for the gold chain where the data have none
ROUNDING = 1e-12  # two means of the same fractions over seeds in another order differ by less

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Identity(NamedTuple):
    """What makes a cell: runs that agree in it may differ in the seed alone. Fields as in the manifest."""

    task: str
    split: str
    method: str
    variant: str
    setting: str
    backbone: str
    layout: str
    train_data: str

    @classmethod
    def of(cls, manifest: Manifest) -> Identity:
        """The identity that a manifest names."""
        return cls(*(getattr(manifest, name) for name in cls._fields))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What compression refers to."""

    name: str = ""
    """`gold chain`, or the runs whose chains stand in for it; empty where there is none."""
    lengths: Mapping[str, float] = field(default_factory=dict)
    """Its chain length #L by question."""

    @property
    def mean_length(self) -> float | None:
        """Its mean #L; None where there is no reference."""
        return fmean(self.lengths.values()) if self.lengths else None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run on one task."""

    summary: Summary
    """Its metrics, with the manifest."""
    reference: Reference
    """What its compression refers to."""
    compression: Interval | None
    """Mean #L of the reference / mean #L, with Student's interval over questions; None where there is none."""
    measures: Measures
    """What was measured of it beyond its records."""
    rank: Interval | None = None
    """Place of its cell among those that are comparable, see `ranks`; None where it was compared with none."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the evaluation."""
        return self.summary.manifest

    @property
    def identity(self) -> Identity:
        """The cell that it belongs to."""
        return Identity.of(self.manifest)


@dataclass(frozen=True)
class Cell:
    """Runs of one setting, one row per seed; what is shown of them is averaged over the seeds."""

    rows: tuple[Row, ...]

    @property
    def identity(self) -> Identity:
        """What the rows have in common."""
        return self.rows[0].identity

    @property
    def label(self) -> str:
        """Method and variant."""
        return f"{self.identity.method} {self.identity.variant}".strip()

    @property
    def section(self) -> tuple[str, str, int, str]:
        """Cells with the same are comparable: task, split, number of questions, test set."""
        summary = self.rows[0].summary
        return self.identity.task, self.identity.split, summary.n, summary.test_set

    @property
    def accuracy(self) -> Interval:
        """pass@1, a fraction, with its interval."""
        accuracy = over_seeds([row.summary.accuracy for row in self.rows], high=1)
        assert accuracy is not None, "every run has an accuracy"
        return accuracy

    @property
    def chain_length(self) -> Interval | None:
        """Mean #L with its interval; None where nothing was decoded."""
        return over_seeds([length for row in self.rows if (length := row.summary.chain_length)], high=inf)


def rows(summaries: Sequence[Summary], measures: Mapping[Path, Measures] | None = None) -> list[Row]:
    """One row per run, sorted by task, split, accuracy (best first) and cell.

    Args:
        summaries: metrics of each evaluation.
        measures: what was measured of each beyond its records, by the folder of the evaluation.
    """
    made = [_row(summary, summaries, (measures or {}).get(summary.folder, Measures())) for summary in summaries]
    return sorted(made, key=_place)


def ranks(accuracies: Sequence[Interval]) -> list[Interval]:
    """The place of each accuracy, 1 for the highest, with the best and the worst place that the intervals allow.

    Equal accuracies share a place, and the next one counts them all. At its best place an accuracy is below those alone
    whose whole interval lies above its own, at its worst it is above those alone whose whole interval lies below.
    """
    return [
        Interval(
            1 + sum(_exceeds(other.value, one.value) for other in accuracies),
            1 + sum(_exceeds(other.low, one.high) for other in accuracies),
            len(accuracies) - sum(_exceeds(one.low, other.high) for other in accuracies),
        )
        for one in accuracies
    ]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The same rows in the same order, each with the place of its cell among the cells of its task and test set."""
    found: dict[int, Interval] = {}
    for section in comparable(cells(rows)):
        for cell, rank in zip(section, ranks([cell.accuracy for cell in section]), strict=True):
            found |= {id(row): rank for row in cell.rows}
    return [replace(row, rank=found[id(row)]) for row in rows]


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Rows grouped by cell, sorted by task, split, test set and accuracy (best first).

    Runs that were asked other questions, or for another number of answers, are never put in one cell.
    """
    groups = _grouped(rows, lambda row: (row.identity, row.summary.n, row.summary.samples, row.summary.test_set))
    made = [Cell(tuple(group)) for group in groups.values()]
    return sorted(made, key=lambda cell: (cell.section, -cell.accuracy.value, cell.identity))


def comparable(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells by what is comparable: one task, split and test set each, in the order of the cells."""
    return list(_grouped(cells, lambda cell: cell.section).values())


def main_cells(section: Sequence[Cell]) -> list[int]:
    """For each cell of a section the place of the one that stands for its method: without variant, else the best.

    Args:
        section: cells in their order, best first.
    """

    def family(cell: Cell) -> tuple[str, ...]:
        return cell.identity.method, cell.identity.backbone, cell.identity.layout, cell.identity.train_data

    families: dict[tuple[str, ...], int] = {}
    for place in sorted(range(len(section)), key=lambda place: (bool(section[place].identity.variant), place)):
        families.setdefault(family(section[place]), place)
    return [families[family(cell)] for cell in section]


def _exceeds(one: float, other: float) -> bool:
    """Whether a number is larger, by more than the rounding of a mean."""
    return one - other > ROUNDING


def _place(row: Row) -> tuple[object, ...]:
    identity = row.identity
    return identity.task, identity.split, -row.summary.accuracy.value, identity, row.manifest.seed, row.manifest.run


def _row(summary: Summary, summaries: Sequence[Summary], measures: Measures) -> Row:
    reference = _reference(summary, summaries)
    ratio = compression(reference.lengths, summary.lengths)
    return Row(summary=summary, reference=reference, compression=ratio, measures=measures)


def _reference(summary: Summary, summaries: Sequence[Summary]) -> Reference:
    """The gold chains, else the explicit baseline.

    Where several cells of the baseline on the same questions qualify, the one nearest to the run (layout, training
    data), then the one with the default settings and the most seeds is taken, and its seeds are averaged.
    """
    if summary.gold_lengths:
        return Reference(name="gold chain", lengths=summary.gold_lengths)
    own = summary.manifest
    candidates = [
        other
        for other in summaries
        if other.manifest.method == REFERENCE_METHOD
        and other.chain_length is not None
        and other.test_set == summary.test_set
        and (other.manifest.task, other.manifest.split, other.manifest.backbone) == (own.task, own.split, own.backbone)
    ]
    if not candidates:
        return Reference()

    def distance(group: list[Summary]) -> tuple[bool, bool, bool, int, Identity]:
        other = group[0].manifest
        far = (other.layout != own.layout, other.train_data != own.train_data, other.variant != "")
        return *far, -len(group), Identity.of(other)

    nearest = min(_grouped(candidates, lambda other: Identity.of(other.manifest)).values(), key=distance)
    shared = set.intersection(*(set(other.lengths) for other in nearest))
    lengths = {question: fmean(other.lengths[question] for other in nearest) for question in shared}
    return Reference(name="run " + ", ".join(sorted(other.manifest.run for other in nearest)), lengths=lengths)


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Mapping[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
