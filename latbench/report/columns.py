"""The columns of the leaderboard: what each shows of a run, how it is averaged over seeds, and what it means.

`COLUMNS` is the one place that knows them. Markdown, CSV, LaTeX, the page, the legend and the alignment all read it,
so that a new metric is one line there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf
from statistics import median
from typing import Any, Generic, TypeVar

from latbench.evaluation.metrics import Caveat, caveats
from latbench.evaluation.statistics import Interval, over_seeds
from latbench.report.cells import Cell, Row
from latbench.util.text import plain

T = TypeVar("T")
Show = Callable[[Sequence[Any]], str]
DASH = "–"
WORTH_SAYING = 0.01  # share of answers from which a rate is a caveat, and not in its own column alone


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
    """What it means: a part of the legend, and what the head of the page's column says."""
    is_text: bool = False
    """Whether it holds words (aligned left), not figures."""
    when: Callable[[Sequence[T]], bool] = lambda items: True
    """Whether a table with these items shows it."""
    if_known: bool = False
    """Whether a table shows it only where some item has a value."""
    after: str = ""
    """The heading that it follows in the tables; "" keeps its place."""
    is_front: bool = False
    """Whether the page shows it before it is asked to, unless it is zero or empty throughout."""
    each: bool = False
    """Whether `of` gives a mapping, and the column stands once for each key, which replaces {} in the heading."""

    def text(self, items: Iterable[T]) -> str:
        """The text of a line; a dash where no item has a value."""
        values = [value for item in items if (value := self.of(item)) is not None]
        return (plain(self.show(values)) if values else "") or DASH

    def shown(self, items: Sequence[T]) -> list[Column[T]]:
        """What a table with these items shows of it: nothing, itself, or a column for each key, in order."""
        if not self.when(items) or (self.if_known and all(self.of(item) is None for item in items)):
            return []
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


def _sampled(rows: Sequence[Row]) -> bool:
    return any(row.summary.samples > 1 for row in rows)


def _low(of: Callable[[Row], Interval | None]) -> Callable[[Row], float | None]:
    return lambda row: None if (found := of(row)) is None else found.low


def _high(of: Callable[[Row], Interval | None]) -> Callable[[Row], float | None]:
    return lambda row: None if (found := of(row)) is None else found.high


def _latent_share(row: Row) -> float | None:
    length = None if row.summary.unknown_length else row.summary.chain_length
    return row.summary.means["num_latents"] / length.value if length and length.value else None


def _caveats_text(every: Sequence[Sequence[Caveat]]) -> str:
    """The caveats of several seeds, rates as their means; those that hold for few answers are left to their columns."""
    shares: dict[str, list[float | None]] = {}
    for found in every:
        for caveat in found:
            shares.setdefault(caveat.name, []).append(caveat.share)
    rates = {name: fsum(share or 0 for share in found) / len(every) for name, found in shares.items()}
    texts = {name: name if None in shares[name] else f"{name} {100 * rates[name]:.1f} %" for name in shares}
    return "; ".join(text for name, text in texts.items() if None in shares[name] or rates[name] >= WORTH_SAYING)


METHOD: Column[Row] = Column(
    "method",
    lambda row: row.identity.method,
    csv="method",
    is_text=True,
    is_front=True,
    legend="registered name; it leads to the method's paper.",
)
VARIANT: Column[Row] = Column(
    "variant",
    lambda row: row.identity.variant,
    lambda values: values[0] or "default",
    csv="variant",
    is_text=True,
    is_front=True,
    legend="configuration keys that are not at their default; see docs/configuration.md.",
)
SETTING: Column[Row] = Column(
    "setting",
    lambda row: row.identity.setting,
    csv="setting",
    is_text=True,
    is_front=True,
    legend="hash of the whole configuration without its seed.",
)
BACKBONE: Column[Row] = Column(
    "backbone",
    lambda row: row.identity.backbone,
    csv="backbone",
    is_text=True,
    is_front=True,
    legend="the language model.",
)
LAYOUT: Column[Row] = Column(
    "layout",
    lambda row: row.identity.layout,
    csv="layout",
    is_text=True,
    is_front=True,
    legend="how question, markers, steps and answer become one sequence.",
)
TRAIN_DATA: Column[Row] = Column(
    "training data",
    lambda row: row.identity.train_data,
    csv="train_data",
    is_text=True,
    is_front=True,
    legend="what it was trained on: data set, number of examples and hash; or none, and the hash of the model.",
)
SHARED = (BACKBONE, LAYOUT, TRAIN_DATA)  # named once, above a table, where all its lines agree
IDENTITY: tuple[Column[Row], ...] = (  # what tells lines apart; also the first columns of the CSV
    Column("task", lambda row: row.identity.task, csv="task", is_text=True),
    Column("split", lambda row: row.identity.split, csv="split", is_text=True),
    METHOD, VARIANT, SETTING, *SHARED,
)  # fmt: skip

# The order is that of the CSV, whose readers find columns by name and by place: names and order stay, a new column goes
# to the end. Where a column stands in the tables is the matter of `after`.
COLUMNS: tuple[Column[Row], ...] = (
    Column("", lambda row: row.manifest.run, csv="run"),
    Column("", lambda row: row.manifest.seed, csv="seed"),
    Column("seeds", lambda row: row, count, legend="runs that differ in the seed alone; figures are their means."),
    Column("", lambda row: row.summary.n, csv="n"),
    Column(
        "accuracy", lambda row: row.summary.accuracy, interval(100, high=1), csv="accuracy",
        is_front=True,
        legend="% of questions answered correctly (pass@1). Brackets hold 95 % intervals: for a single run over "
        "questions (Wilson's for shares, Student's t for means), for several over seeds (Student's t), which has no "
        "width where they all agree and then says nothing of other questions.",
    ),
    Column("", _low(lambda row: row.summary.accuracy), csv="accuracy_low"),
    Column("", _high(lambda row: row.summary.accuracy), csv="accuracy_high"),
    Column(
        "#L", lambda row: row.summary.chain_length, interval(), csv="chain_length",
        is_front=True,
        legend="chain length: latent steps plus explicit reasoning tokens per answer, without markers, answer and EOS.",
    ),
    Column(
        "compression", lambda row: row.compression, interval(digits=2), csv="compression",
        is_front=True,
        legend="mean #L of the reference named with each table / mean #L, each question with its own reference; a dash "
        "where #L is 0 or there is no reference.",
    ),
    Column(
        "answer tokens", lambda row: row.summary.answer_tokens, mean(".1f"), csv="answer_tokens",
        legend="tokens of an answer after its chain, without EOS.",
    ),
    Column(
        "decode steps", lambda row: row.summary.decode_steps, mean(".1f"), csv="decode_steps",
        legend="forward passes per answer after the prompt, forced markers included.",
    ),
    Column(
        "no answer", lambda row: row.summary.no_answer, percent(), csv="no_answer",
        is_front=True,
        legend="% of answers in which none was found.",
    ),
    Column(
        "timeout", lambda row: row.summary.timeout, percent(), csv="timeout",
        is_front=True,
        legend="% of answers on which the checker ran out of time.",
    ),
    Column(
        "truncated", lambda row: row.summary.truncated, percent(), csv="truncated",
        is_front=True,
        legend="% of answers that were cut at a cap.",
    ),
    Column(
        "answers/s", lambda row: row.summary.answers_per_second, mean(".1f"), csv="answers_per_second",
        legend="answers per second of the whole evaluation, on the machine that made it.",
    ),
    Column(
        "train FLOPs", lambda row: row.summary.train_flops, mean(".2e"), csv="train_flops",
        is_front=True,
        legend="floating-point operations of training, those of the run that a run starts from included; what a method "
        "prepares between its stages, such as soft labels, is left out.",
    ),
    Column("", lambda row: row.summary.train_tokens, csv="train_tokens"),
    Column("", lambda row: row.summary.train_seconds, csv="train_seconds"),
    Column(
        "passes", lambda row: row.summary.train_passes, mean(".3g"), csv="train_passes", after="answers/s",
        legend="passes over the training examples, those of the run that a run starts from included.",
    ),
    Column(
        "too long", lambda row: row.summary.prompt_too_long, percent(), csv="prompt_too_long", after="truncated",
        is_front=True,
        legend="% of answers to questions longer than the context: counted as wrong, left out of lengths.",
    ),
    Column(
        "k", lambda row: row.summary.samples, csv="samples", when=_sampled, after="accuracy",
        legend="answers to each question.",
    ),
    Column(
        "maj@k", lambda row: row.summary.maj_at_k, interval(100, high=1), csv="maj_at_k", when=_sampled, after="k",
        is_front=True,
        legend="% of questions that the majority of all k answers gets right.",
    ),
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
        is_front=True,
        legend="% of questions of which one of so many answers is right, without bias from all k.",
    ),
    Column("", lambda row: row.manifest.diagnostics, csv="diagnostics"),
    Column("", lambda row: _caveats_text([caveats(row.summary)]), csv="caveats"),
    Column(
        "caveats", lambda row: caveats(row.summary), _caveats_text, after="accuracy", is_text=True,
        when=lambda rows: any(map(_caveats_text, ([caveats(row.summary)] for row in rows))),
        is_front=True,
        legend="what is known against the numbers of a line: contaminated (training rows ask questions of the test "
        "set), mixed precision (less than 32 bits in training or in answering), damaged (lines that cannot be read), "
        "and each rate of failed answers that reaches 1 %.",
    ),
    Column(
        "prompt tokens", lambda row: row.summary.means.get("num_prompt_tokens"), mean(".1f"), csv="prompt_tokens",
        after="compression", legend="tokens of a question's prompt.",
    ),
    Column(
        "latent share", _latent_share, percent(), csv="latent_share", after="#L",
        is_front=True,
        legend="% of #L that are latent steps.",
    ),
    Column(
        "answers/s, batch 1", lambda row: (cost := row.measures.cost) and 1 / median(cost.seconds_single), mean(".1f"),
        csv="answers_per_second_batch_1", after="answers/s", if_known=True,
        is_front=True,
        legend="answers per second one by one, from `latbench cost`.",
    ),
    Column(
        "#L unknown", lambda row: row.summary.unknown_length, percent(), csv="unknown_length", after="#L",
        when=lambda rows: any(row.summary.unknown_length for row in rows),
        legend="% of answers whose chain cannot be told from the answer: left out of #L.",
    ),
    Column(
        "rollouts", lambda row: row.manifest.train.get("rollouts") or None, mean(",.0f"), csv="rollouts",
        after="passes", if_known=True,
        legend="answers drawn in reinforcement learning.",
    ),
    Column(
        "rank", lambda row: row.rank, lambda values: rank_text(values[0]), csv="rank", after="accuracy", if_known=True,
        is_front=True,
        legend="place by accuracy among all lines of a table, other settings of a method included; equal accuracies "
        "share a place. Brackets hold the best and the worst place that the intervals of accuracy allow.",
    ),
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
    runs = "runs that reported something."
    reporting: Column[Row] = Column("seeds", lambda row: row.manifest.diagnostics or None, count, legend=runs)
    means = "what the method reports of its own training, mean over seeds."
    columns = [(name.replace("_", " "), _at(_diagnostics, name)) for name in figures]
    return [reporting, *(Column(heading, of, mean(".3g"), legend=means) for heading, of in columns)]


def _diagnostics(row: Row) -> Mapping[str, float]:
    return row.manifest.diagnostics


def _at(of: Callable[[T], Mapping[Any, Any]], key: Any) -> Callable[[T], Any]:
    return lambda item: of(item).get(key)


def legend() -> str:
    """What the columns mean, as a Markdown list."""
    return "\n".join(textwrap.fill(f"- {text}", 120, subsequent_indent="  ") for text in meanings())


def meanings() -> list[str]:
    """What each column means, as `heading: meaning`, in the order of the tables."""
    return [f"{column.heading.format('k')}: {column.legend}" for column in _in_order(COLUMNS) if column.legend]


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


def rank_text(rank: Interval) -> str:
    """`place [best, worst]`; the place alone where the intervals allow no other."""
    return f"{rank.value:.0f}" if rank.low == rank.high else f"{rank.value:.0f} [{rank.low:.0f}, {rank.high:.0f}]"


def number_text(value: float | None, spec: str) -> str:
    """A number in a format such as .2f, what rounds to zero without a sign; a dash for None."""
    return DASH if value is None else format(value, "z" + spec)
