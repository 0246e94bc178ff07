"""Two runs on the same questions: a paired test and the questions on which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latbench.evaluation.metrics import by_question, problem
from latbench.evaluation.records import Evaluation, Record
from latbench.evaluation.statistics import Interval, mcnemar_exact, mean_interval

SCORING = ("scorer", "run_on", "kind")  # settings of a task that say how answers are read and compared


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A question that one run solves and the other does not; `a` and `b` are the extracted answers."""

    id: str
    gold: str
    a: str | None
    b: str | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired comparison of two runs, on the first answer to each question.

    Args:
        a: name of the first run's folder.
        b: name of the other's.
        n: questions.
        both: questions that both solve.
        neither: questions that neither solves.
        only_a: questions that a alone solves, in the order of a's records.
        only_b: questions that b alone solves, in that order too.
        difference: mean of (a correct) - (b correct), a fraction, with its t-interval over questions.
        p_value: exact McNemar, two-sided.
        caveats: what else could make the difference, one sentence each.
    """

    a: str
    b: str
    n: int
    both: int
    neither: int
    only_a: tuple[Difference, ...]
    only_b: tuple[Difference, ...]
    difference: Interval
    p_value: float
    caveats: tuple[str, ...]


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Paired comparison on the same questions.

    Raises: ValueError: a run is incomplete, has repeated records or others than its manifest tells of, or the runs were
        asked different questions.
    """
    for run in (a, b):
        if found := problem(run):
            raise ValueError(f"{run.folder}: {found}")
    if a.manifest.questions_sha256 != b.manifest.questions_sha256:
        raise ValueError(
            f"runs {a.folder} and {b.folder} were not asked the same questions ({_test_set(a)} and {_test_set(b)}); "
            "compare runs on the same task, split and limit"
        )
    answers_a, answers_b = ({record.id: record for record in run.records if record.sample == 0} for run in (a, b))
    if alone := answers_a.keys() ^ answers_b.keys():
        raise ValueError(
            f"only one of runs {a.folder} and {b.folder} has a first answer to question {min(alone)!r}: records of one "
            "are not those that its manifest tells of; evaluate it again"
        )
    pairs = [(record, answers_b[name]) for name, record in answers_a.items()]
    gains = [(x.status == "correct") - (y.status == "correct") for x, y in pairs]
    only_a = tuple(_difference(*pair) for pair, gain in zip(pairs, gains, strict=True) if gain > 0)
    only_b = tuple(_difference(*pair) for pair, gain in zip(pairs, gains, strict=True) if gain < 0)
    both = sum(x.status == y.status == "correct" for x, y in pairs)
    return Comparison(
        a=str(a.folder),
        b=str(b.folder),
        n=len(pairs),
        both=both,
        neither=len(pairs) - both - len(only_a) - len(only_b),
        only_a=only_a,
        only_b=only_b,
        difference=mean_interval(gains).clipped(-1, 1),
        p_value=mcnemar_exact(len(only_a), len(only_b)),
        caveats=tuple(_caveats(a, b)),
    )


def _caveats(a: Evaluation, b: Evaluation) -> Iterator[str]:
    for name, run in (("A", a), ("B", b)):
        if run.manifest.contaminated:
            yield f"{run.manifest.contaminated} training rows of {name} ask one of these questions"
        if (samples := len(run.records) // len(by_question(run.records))) > 1:
            yield f"{name} has {samples} answers a question; the first of each is compared"
    for key in SCORING:
        ways = [run.manifest.configured("eval", "task", key) for run in (a, b)]
        if None not in ways and ways[0] != ways[1]:  # an older manifest does not say
            yield f"A was scored with task.{key}={ways[0]}, B with {ways[1]}: the same answers can get other verdicts"
    batches = [run.manifest.configured("generate", "batch_size") for run in (a, b)]
    if batches[0] != batches[1] and (a.manifest.is_rounded or b.manifest.is_rounded):
        yield (
            f"A answered in batches of {batches[0]}, B of {batches[1]}, with weights of less than 32 bits: that alone "
            "can change answers"
        )


def render(comparison: Comparison, limit: int | None = 20) -> str:
    """The comparison as plain text; at most `limit` questions of each kind are listed, None lists all."""
    found, n = comparison, comparison.n
    gain, low, high = (100 * part for part in (found.difference.value, found.difference.low, found.difference.high))
    correct_a, correct_b = found.both + len(found.only_a), found.both + len(found.only_b)
    lines = [
        f"A: {found.a}: {correct_a} of {n} correct ({100 * correct_a / n:.1f} %)",
        f"B: {found.b}: {correct_b} of {n} correct ({100 * correct_b / n:.1f} %)",
        f"both {found.both}, only A {len(found.only_a)}, only B {len(found.only_b)}, neither {found.neither}",
        f"A - B: {gain:+.1f} points, 95 % t-interval over questions [{low:+.1f}, {high:+.1f}]",
        f"exact McNemar test, two-sided: p = {found.p_value:.3g}",
        *(f"mind: {caveat}" for caveat in found.caveats),
        *_listing("only A correct", found.only_a, limit),
        *_listing("only B correct", found.only_b, limit),
    ]
    return "\n".join(lines).encode(errors="backslashreplace").decode() + "\n"


def _listing(title: str, differences: Sequence[Difference], limit: int | None) -> list[str]:
    if not differences:
        return []
    shown = differences if limit is None else differences[:limit]
    more = [f"  and {len(differences) - len(shown)} more"] if len(shown) < len(differences) else []
    return ["", f"{title}:", *(f"  {d.id}: gold {d.gold!r}, A {d.a!r}, B {d.b!r}" for d in shown), *more]


def _difference(a: Record, b: Record) -> Difference:
    return Difference(id=a.id, gold=a.gold, a=a.extracted, b=b.extracted)


def _test_set(run: Evaluation) -> str:
    manifest = run.manifest
    return f"{len({record.id for record in run.records})} of {manifest.task}/{manifest.split}"
