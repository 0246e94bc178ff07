"""The columns of the leaderboard: what each shows of a run, how it is averaged over seeds, and what it means.

`COLUMNS` is the one place that knows them. Markdown, CSV, LaTeX, the page, the legend and the alignment all read it,
so that a new metric is one line there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Any, Generic, TypeVar

from latbench.evaluation.statistics import Interval, over_seeds
from latbench.report.rows import Cell, Row

T = TypeVar("T")
Show = Callable[[Sequence[Any]], str]
DASH = "–"


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table whose lines average over several T: rows of a cell, or measure files of its seeds."""

    heading: str
    """What stands above it; "" leaves it to the CSV alone."""
    of: Callable[[T], Any]
    """Its value for one T; None where there is none."""
    show: Show = lambda values: str(values[0])
    """The text of a line, from the values that are not None (at least one); the first value by default."""
    csv: str = ""
    """Its name in the CSV, which has one line per run and the value of an interval; "" leaves it out there."""
    legend: str = ""
    """What it means, as a sentence of the legend."""
    is_text: bool = False
    """Whether it holds words (aligned left), not figures."""
    when: Callable[[Sequence[T]], bool] = lambda items: True
    """Whether a table with these items shows it."""
    after: str = ""
    """The heading that it follows in the tables; "" keeps its place."""
    each: bool = False
    """Whether `of` gives a mapping, and the column stands once for each key, which replaces {} in the heading."""

    def text(self, items: Iterable[T]) -> str:
        """The text of a line; a dash where no item has a value."""
        values = [value for item in items if (value := self.of(item)) is not None]
        return plain(self.show(values)) if values else DASH

    def spread(self, items: Sequence[T]) -> list[Column[T]]:
        """This column, or one for each key, in order."""
        if not self.each:
            return [self]
        keys = sorted({key for item in items for key in self.of(item)})
        return [replace(self, heading=self.heading.format(key), of=_at(self.of, key), each=False) for key in keys]


def mean(spec: str, scale: float = 1) -> Show:
    """The mean over the seeds, in a format such as .2f."""
    return lambda values: number_text(scale * (fsum(values) / len(values)), spec)


def percent() -> Show:
    """The mean over the seeds of a fraction, in percent."""
    return mean(".1f", 100)


def interval(scale: float = 1, digits: int = 1, low: float = 0, high: float = inf) -> Show:
    """One run with its interval, several as their mean and t-interval, cut to low..high (before the scale)."""
    return lambda values: interval_text(over_seeds(values, low, high), scale, digits)


def count(values: Sequence[Any]) -> str:
    """How many there are."""
    return str(len(values))


def differs(of: Callable[[T], Any]) -> Callable[[Sequence[T]], bool]:
    """Whether the items have more than one value."""
    return lambda items: len({value for item in items if (value := of(item)) is not None}) > 1


def known(of: Callable[[T], Any]) -> Callable[[Sequence[T]], bool]:
    """Whether some item has a value."""
    return lambda items: any(of(item) is not None for item in items)


def _sampled(rows: Sequence[Row]) -> bool:
    return any(row.summary.samples > 1 for row in rows)


def _low(of: Callable[[Row], Interval | None]) -> Callable[[Row], float | None]:
    return lambda row: None if (found := of(row)) is None else found.low


def _high(of: Callable[[Row], Interval | None]) -> Callable[[Row], float | None]:
    return lambda row: None if (found := of(row)) is None else found.high


METHOD: Column[Row] = Column("method", lambda row: row.identity.method, csv="method", is_text=True)
VARIANT: Column[Row] = Column(
    "variant", lambda row: row.identity.variant, lambda values: values[0] or "default", csv="variant", is_text=True
)
SETTING: Column[Row] = Column("setting", lambda row: row.identity.setting, csv="setting", is_text=True)
BACKBONE: Column[Row] = Column("backbone", lambda row: row.identity.backbone, csv="backbone", is_text=True)
LAYOUT: Column[Row] = Column("layout", lambda row: row.identity.layout, csv="layout", is_text=True)
TRAIN_DATA: Column[Row] = Column("training data", lambda row: row.identity.train_data, csv="train_data", is_text=True)
SHARED = (BACKBONE, LAYOUT, TRAIN_DATA)  # named once, above a table, where all its lines agree
IDENTITY: tuple[Column[Row], ...] = (  # what tells lines apart; also the first columns of the CSV
    Column("task", lambda row: row.identity.task, csv="task", is_text=True),
    Column("split", lambda row: row.identity.split, csv="split", is_text=True),
    METHOD, VARIANT, SETTING, *SHARED,
)  # fmt: skip

# The order is that of the CSV. Readers find columns of the CSV by name and by place: names and order stay, a new column
# goes to the end. Where it stands in the tables is the matter of `after`.
COLUMNS: tuple[Column[Row], ...] = (
    Column("", lambda row: row.manifest.run, csv="run"),
    Column("", lambda row: row.manifest.seed, csv="seed"),
    Column("seeds", lambda row: row, count),
    Column("", lambda row: row.summary.n, csv="n"),
    Column(
        "accuracy", lambda row: row.summary.accuracy, interval(100, high=1), csv="accuracy",
        legend="Accuracy (%) is pass@1; it, pass@k (unbiased, of so many of the k answers to a question) and maj@k (of "
        "all k) have a 95 % interval: Wilson's for a single run, Student's t over seeds for several, which has no "
        "width where they all agree and then says nothing of other questions.",
    ),
    Column("", _low(lambda row: row.summary.accuracy), csv="accuracy_low"),
    Column("", _high(lambda row: row.summary.accuracy), csv="accuracy_high"),
    Column(
        "#L", lambda row: row.summary.chain_length, interval(), csv="chain_length",
        legend="#L is the chain length: latent steps plus explicit reasoning tokens, without markers, answer and EOS. "
        "Its 95 % interval is Student's t, over questions for a single run, over seeds for several.",
    ),
    Column(
        "compression", lambda row: row.compression, interval(digits=2), csv="compression",
        legend="Compression is the mean #L of the reference named with each table / mean #L; its 95 % interval is "
        "Student's t, over questions (each with its own reference) for a single run, over seeds for several; a dash "
        "stands where #L is 0 or there is no reference.",
    ),
    Column(
        "answer tokens", lambda row: row.summary.answer_tokens, mean(".1f"), csv="answer_tokens",
        legend="Answer tokens and decode steps are means per answer.",
    ),
    Column("decode steps", lambda row: row.summary.decode_steps, mean(".1f"), csv="decode_steps"),
    Column(
        "no answer", lambda row: row.summary.no_answer, percent(), csv="no_answer",
        legend="No answer, timeout (of the checker), truncated (at a cap) and too long (prompt beyond the context: "
        "counted as wrong, left out of lengths) are % of answers.",
    ),
    Column("timeout", lambda row: row.summary.timeout, percent(), csv="timeout"),
    Column("truncated", lambda row: row.summary.truncated, percent(), csv="truncated"),
    Column("answers/s", lambda row: row.summary.answers_per_second, mean(".1f"), csv="answers_per_second"),
    Column("train FLOPs", lambda row: row.summary.train_flops, mean(".2e"), csv="train_flops"),
    Column("", lambda row: row.summary.train_tokens, csv="train_tokens"),
    Column("", lambda row: row.summary.train_seconds, csv="train_seconds"),
    Column(
        "passes", lambda row: row.summary.train_passes, mean(".3g"), csv="train_passes", after="answers/s",
        legend="Passes (over the training examples) and training FLOPs include those of the run that a run starts "
        "from; what a method prepares between its stages, such as soft labels, is left out.",
    ),
    Column("too long", lambda row: row.summary.prompt_too_long, percent(), csv="prompt_too_long", after="truncated"),
    Column("k", lambda row: row.summary.samples, csv="samples", when=_sampled, after="accuracy"),
    Column("maj@k", lambda row: row.summary.maj_at_k, interval(100, high=1), csv="maj_at_k", when=_sampled, after="k"),
    Column("", _low(lambda row: row.summary.maj_at_k), csv="maj_at_k_low"),
    Column("", _high(lambda row: row.summary.maj_at_k), csv="maj_at_k_high"),
    Column("", _low(lambda row: row.summary.chain_length), csv="chain_length_low"),
    Column("", _high(lambda row: row.summary.chain_length), csv="chain_length_high"),
    Column("", _low(lambda row: row.compression), csv="compression_low"),
    Column("", _high(lambda row: row.compression), csv="compression_high"),
    Column("", lambda row: row.reference.name, csv="reference"),
    Column("", lambda row: row.reference.mean_length, csv="reference_length"),
    Column("", lambda row: row.summary.test_set, csv="test_set"),
    Column("", lambda row: row.summary.pass_at, csv="pass_at"),
    Column(
        "pass@{}", lambda row: {k: chance for k, chance in row.summary.pass_at.items() if k > 1},
        interval(100, high=1), when=_sampled, after="k", each=True,
    ),
    Column("", lambda row: row.manifest.diagnostics, csv="diagnostics"),
)  # fmt: skip


def names(section: Sequence[Cell]) -> list[Column[Row]]:
    """The columns that tell the lines of a section apart: method and variant, and what else differs."""
    first = [row for cell in section for row in cell.rows[:1]]
    columns = [METHOD, VARIANT, *(column for column in SHARED if differs(column.of)(first))]
    shown = {tuple(column.text([row]) for column in columns) for row in first}
    return columns if len(shown) == len(first) else [*columns, SETTING]


def leaderboard_columns() -> list[Column[Row]]:
    """The columns of figures of the main table, from left to right."""
    return _in_order(COLUMNS)


def diagnostics(rows: Sequence[Row]) -> list[Column[Row]]:
    """A column for every figure that some method reported about its own training, after the number of seeds."""
    figures = dict.fromkeys(name for row in rows for name in row.manifest.diagnostics)
    reporting: Column[Row] = Column("seeds", lambda row: row.manifest.diagnostics or None, count)
    columns = [Column(name.replace("_", " "), _at(_diagnostics, name), mean(".3g")) for name in figures]
    return [reporting, *columns]


def _diagnostics(row: Row) -> Mapping[str, float]:
    return row.manifest.diagnostics


def _at(of: Callable[[T], Mapping[Any, Any]], key: Any) -> Callable[[T], Any]:
    return lambda item: of(item).get(key)


def legend() -> str:
    """What the columns mean, as a Markdown list."""
    sentences = [column.legend for column in _in_order(COLUMNS) if column.legend]
    return "\n".join(textwrap.fill(f"- {text}", 120, subsequent_indent="  ") for text in sentences)


def _in_order(columns: Sequence[Column[T]]) -> list[Column[T]]:
    """Those that have a heading, in the order of the tables."""
    shown = [column for column in columns if column.heading and not column.after]
    for column in columns:
        if column.after:
            place = next(place for place, other in enumerate(shown) if other.heading == column.after)
            shown.insert(place + 1, column)
    return shown


def interval_text(interval: Interval | None, scale: float = 1, digits: int = 1) -> str:
    """`value [low, high]`; a dash for None."""
    if interval is None:
        return DASH
    value, low, high = (f"{scale * part:z.{digits}f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]".replace("inf", "∞")


def number_text(value: float | None, spec: str) -> str:
    """A number in a format such as .2f, what rounds to zero without a sign; a dash for None."""
    return DASH if value is None else format(value, "z" + spec)


def plain(text: str) -> str:
    """One line that can be encoded."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())
