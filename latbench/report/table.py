"""Rows (one per run) and cells (runs that differ in the seed alone): what every table and plot shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, inf
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from latbench.evaluation.metrics import Summary, compression
from latbench.evaluation.statistics import Interval, over_seeds
from latbench.measures.files import Measures

REFERENCE_METHOD = "cot"  # stands in for the gold chain where the data have none (DESIGN.md 6)

Identity = tuple[str, str, str, str, str, str, str, str]
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run on one task, in CSV column order; None is an empty field. Accuracy and rates are fractions.

    `reference` names what compression refers to, `reference_length` is its mean #L; the interval of a row is Wilson's
    for accuracy and Student's over questions for #L and compression. See `metrics.Summary` for the rest.
    """

    task: str
    split: str
    method: str
    variant: str
    setting: str
    backbone: str
    layout: str
    train_data: str
    run: str
    seed: int
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chain_length: float | None
    compression: float | None
    answer_tokens: float | None
    decode_steps: float | None
    no_answer: float
    timeout: float
    truncated: float
    answers_per_second: float | None
    train_flops: float | None
    train_tokens: float | None
    train_seconds: float | None
    train_passes: float | None
    prompt_too_long: float
    samples: int
    maj_at_k: float
    maj_at_k_low: float
    maj_at_k_high: float
    chain_length_low: float | None
    chain_length_high: float | None
    compression_low: float | None
    compression_high: float | None
    reference: str
    reference_length: float | None
    test_set: str
    pass_at: Mapping[int, Interval]  # pass@k by k
    diagnostics: Mapping[str, float]  # what the method reported about its own training
    measures: Measures = field(default_factory=Measures)  # from the files beside the records; no column
    unknown_length: float = 0.0  # no column


@dataclass(frozen=True)
class Cell:
    """Runs of one setting, one row per seed; what is shown of them is averaged over the seeds."""

    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """Method and variant."""
        return f"{self.rows[0].method} {self.rows[0].variant}".strip()

    @property
    def section(self) -> tuple[str, str, int, str]:
        """Cells with the same are comparable: task, split, n, test set."""
        first = self.rows[0]
        return first.task, first.split, first.n, first.test_set

    @property
    def accuracy(self) -> Interval:
        """pass@1, a fraction, with its interval."""
        accuracy = self.interval("accuracy")
        assert accuracy is not None, "every run has an accuracy"
        return accuracy

    @property
    def chain_length(self) -> Interval | None:
        """Mean #L with its interval; None where nothing was decoded, or no answer's chain is known."""
        return self.interval("chain_length", high=inf)

    @property
    def compression(self) -> Interval | None:
        """Mean #L of the reference / mean #L, see `metrics.compression`; None where there is none."""
        return self.interval("compression", high=inf)

    def interval(self, name: str, high: float = 1) -> Interval | None:
        """A column that has `_low` and `_high`: one run as it is, several as their mean and t-interval in 0..high."""
        columns = zip(*(self._values(name + end) for end in ("", "_low", "_high")), strict=True)
        return over_seeds([Interval(*bounds) for bounds in columns], high=high)

    def pass_at(self, k: int) -> Interval | None:
        """pass@k with its interval; None where fewer answers were given."""
        return over_seeds([row.pass_at[k] for row in self.rows if k in row.pass_at], high=1)

    def mean(self, name: str) -> float | None:
        """Mean of a column over the runs that have it; None where none has."""
        values = self._values(name)
        return fsum(values) / len(values) if values else None

    def diagnostic(self, name: str) -> float | None:
        """Mean over the runs that reported it; None where none did."""
        values = [row.diagnostics[name] for row in self.rows if name in row.diagnostics]
        return fsum(values) / len(values) if values else None

    def _values(self, name: str) -> list[float]:
        return [value for row in self.rows if (value := getattr(row, name)) is not None]


def identity(item: Summary | Row) -> Identity:
    """What makes a cell: runs that agree in it may differ in the seed alone."""
    own = item.manifest if isinstance(item, Summary) else item
    return own.task, own.split, own.method, own.variant, own.setting, own.backbone, own.layout, own.train_data


def rows(summaries: Sequence[Summary], measures: Mapping[Path, Measures] | None = None) -> list[Row]:
    """One row per run, sorted by task, split, accuracy (best first) and cell.

    Args:
        measures: what was measured of each run beyond its records, by the folder of its evaluation.
    """
    by_folder = measures or {}
    made = [
        _row(summary, *_reference(summary, summaries), by_folder.get(summary.folder, Measures()))
        for summary in summaries
    ]
    return sorted(made, key=lambda row: (row.task, row.split, -row.accuracy, identity(row), row.seed, row.run))


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Rows grouped by cell, sorted by task, split, test set and accuracy (best first).

    Runs that were asked other questions, or for another number of answers, are never put in one cell.
    """
    groups = _grouped(rows, lambda row: (*identity(row), row.n, row.samples, row.test_set))
    made = [Cell(tuple(group)) for group in groups.values()]
    return sorted(made, key=lambda cell: (cell.section, -cell.accuracy.value, identity(cell.rows[0])))


def sections(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells by what is comparable: one task, split and test set each, in the order of the cells."""
    return list(_grouped(cells, lambda cell: cell.section).values())


def _reference(summary: Summary, summaries: Sequence[Summary]) -> tuple[str, Mapping[str, float]]:
    """Name of what compression refers to, and its #L by question: gold chains, else the explicit baseline.

    Where several cells of the baseline on the same questions qualify, the one nearest to the run (layout, training
    data), then the one with the default settings and the most seeds is taken, and its seeds are averaged.
    """
    if summary.gold_lengths:
        return "gold chain", summary.gold_lengths
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
        return "", {}

    def distance(group: list[Summary]) -> tuple[bool, bool, bool, int, Identity]:
        other = group[0].manifest
        far = (other.layout != own.layout, other.train_data != own.train_data, other.variant != "")
        return *far, -len(group), identity(group[0])

    nearest = min(_grouped(candidates, identity).values(), key=distance)
    shared = set.intersection(*(set(other.lengths) for other in nearest))
    lengths = {question: fmean(other.lengths[question] for other in nearest) for question in shared}
    return "run " + ", ".join(sorted(other.manifest.run for other in nearest)), lengths


def _row(summary: Summary, reference: str, reference_lengths: Mapping[str, float], measures: Measures) -> Row:
    manifest, length = summary.manifest, summary.chain_length
    ratio = compression(reference_lengths, summary.lengths)
    return Row(
        task=manifest.task,
        split=manifest.split,
        method=manifest.method,
        variant=manifest.variant,
        setting=manifest.setting,
        backbone=manifest.backbone,
        layout=manifest.layout,
        train_data=manifest.train_data,
        run=manifest.run,
        seed=manifest.seed,
        n=summary.n,
        accuracy=summary.accuracy.value,
        accuracy_low=summary.accuracy.low,
        accuracy_high=summary.accuracy.high,
        chain_length=length.value if length else None,
        compression=ratio.value if ratio else None,
        answer_tokens=summary.answer_tokens,
        decode_steps=summary.decode_steps,
        no_answer=summary.no_answer,
        timeout=summary.timeout,
        truncated=summary.truncated,
        answers_per_second=summary.answers_per_second,
        train_flops=summary.train_flops,
        train_tokens=summary.train_tokens,
        train_seconds=summary.train_seconds,
        train_passes=summary.train_passes,
        prompt_too_long=summary.prompt_too_long,
        samples=summary.samples,
        maj_at_k=summary.maj_at_k.value,
        maj_at_k_low=summary.maj_at_k.low,
        maj_at_k_high=summary.maj_at_k.high,
        chain_length_low=length.low if length else None,
        chain_length_high=length.high if length else None,
        compression_low=ratio.low if ratio else None,
        compression_high=ratio.high if ratio else None,
        reference=reference,
        reference_length=fmean(reference_lengths.values()) if reference_lengths else None,
        test_set=summary.test_set,
        pass_at=summary.pass_at,
        diagnostics=manifest.diagnostics,
        measures=measures,
        unknown_length=summary.unknown_length,
    )


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Mapping[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
