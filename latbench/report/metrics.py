"""What one evaluation shows: accuracy, chain length, rates and cost, as a pure function of its records and manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import comb, fsum
from pathlib import Path

from latbench.report.measures import Measures
from latbench.report.statistics import Interval, mean_interval, wilson_interval
from latbench.runs.records import Evaluation, Manifest, Record


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Metrics of one evaluation.

    Lengths, steps and their means leave out questions longer than the context (`prompt_too_long`), for which nothing
    was decoded; they are None where nothing was decoded at all. Accuracy and rates count every record.

    Args:
        folder, manifest, num_bad_lines: of the evaluation; the manifest names the cell it belongs to.
        test_set: hash over the question ids and the fingerprint of the test data; equal means the same questions.
        n: questions; samples: answers per question.
        accuracy: pass@1, the mean over samples, then over questions.
        pass_at_k, maj_at_k: with k = samples, see the functions of these names; like accuracy with a Wilson interval
            at n trials (the samples of a question are not independent trials).
        chain_length: mean #L (latent steps plus explicit reasoning tokens, without markers, answer and EOS), first over
            samples; t-interval over questions.
        answer_tokens: mean answer tokens without EOS.
        decode_steps: mean forward passes after the prompt, forced markers included.
        gold_chain_length: mean tokens of the gold chains under the run's tokenizer; None where the data have none.
        no_answer, timeout: share of answers with that status; truncated, prompt_too_long: with that stop reason
            (`length` for truncated).
        answers_per_second: over the whole evaluation; None where the manifest has no cost.
        train_flops, train_passes: of training, the run it started from included: operations, and passes over the
            training examples; None where the manifest has no cost.
        measures: what stands beside the records, where the caller has read it.
    """

    folder: Path
    manifest: Manifest
    num_bad_lines: int
    test_set: str
    n: int
    samples: int
    accuracy: Interval
    pass_at_k: Interval
    maj_at_k: Interval
    chain_length: Interval | None
    answer_tokens: float | None
    decode_steps: float | None
    gold_chain_length: float | None
    no_answer: float
    timeout: float
    truncated: float
    prompt_too_long: float
    answers_per_second: float | None
    train_flops: float | None
    train_passes: float | None
    measures: Measures = field(default_factory=Measures)


def summarise(evaluation: Evaluation) -> Summary:
    """Metrics of a complete evaluation.

    Raises: ValueError: what `problem` finds.
    """
    if found := problem(evaluation):
        raise ValueError(f"{evaluation.folder}: {found}")
    manifest, records = evaluation.manifest, evaluation.records
    questions = by_question(records)
    n, samples = len(questions), len(records) // len(questions)
    num_correct = [sum(record.status == "correct" for record in answers) for answers in questions.values()]
    decoded = [record for record in records if record.stop_reason != "prompt_too_long"]
    seconds, answers = manifest.evaluation.get("seconds"), manifest.evaluation.get("answers")

    def share(condition: Callable[[Record], bool]) -> float:
        return sum(map(condition, records)) / len(records)

    return Summary(
        folder=evaluation.folder,
        manifest=manifest,
        num_bad_lines=evaluation.num_bad_lines,
        test_set=manifest.questions_sha256[:12],
        n=n,
        samples=samples,
        accuracy=wilson_interval(sum(num_correct) / samples, n),
        pass_at_k=wilson_interval(fsum(pass_at_k(samples, correct, samples) for correct in num_correct), n),
        maj_at_k=wilson_interval(fsum(map(maj_at_k, questions.values())), n),
        chain_length=_interval_over_questions(decoded),
        answer_tokens=_mean([record.num_answer_tokens for record in decoded]),
        decode_steps=_mean([record.decode_steps for record in decoded]),
        gold_chain_length=_mean([record.gold_chain_length for record in decoded]) or None,
        no_answer=share(lambda record: record.status == "no_answer"),
        timeout=share(lambda record: record.status == "timeout"),
        truncated=share(lambda record: record.stop_reason == "length"),
        prompt_too_long=share(lambda record: record.stop_reason == "prompt_too_long"),
        answers_per_second=answers / seconds if answers and seconds else None,
        train_flops=manifest.train.get("flops"),
        train_passes=manifest.train.get("epochs"),
    )


def problem(evaluation: Evaluation) -> str | None:
    """Why an evaluation cannot be counted, or None: duplicate, missing or superfluous records, no fingerprint."""
    manifest, records = evaluation.manifest, evaluation.records
    per_answer = Counter((record.id, record.sample) for record in records)
    repeated = [key for key, count in per_answer.items() if count > 1]
    if repeated:
        example, sample = repeated[0]
        return (
            f"{len(repeated)} answers are recorded more than once (first: id {example!r}, sample {sample}); "
            "delete the folder and evaluate again"
        )
    if not manifest.complete or len(records) < manifest.n:
        return f"incomplete, {len(records)} of {manifest.n} records; resume the evaluation"
    per_question = set(Counter(record.id for record in records).values())
    if len(records) != manifest.n or len(per_question) != 1:
        return f"{len(records)} records do not fit the {manifest.n} of its manifest; evaluate again"
    if f"{manifest.task}/{manifest.split}" not in manifest.data:
        return f"its manifest has no fingerprint of {manifest.task}/{manifest.split}; evaluate again"
    return None


def by_question(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by question id, in file order."""
    questions: dict[str, list[Record]] = {}
    for record in records:
        questions.setdefault(record.id, []).append(record)
    return questions


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that one of k answers is correct: 1 - C(n - c, k) / C(n, k) (arXiv:2107.03374, equation 1).

    Args:
        num_samples, num_correct: answers to one question, n, and the correct ones among them, c.
    Raises: ValueError: k outside 1..n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be in 1..{num_samples} (answers per question), got {k}")
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def maj_at_k(answers: Sequence[Record]) -> float:
    """Credit of a majority vote over the k answers to one question (self-consistency, arXiv:2203.11171, section 2).

    Correct answers are one candidate, since all equal the gold answer; others are the same candidate when their
    extracted text is. Missing answers do not vote. A tie is broken at random, so that the credit is the expected one:
    1 / (number of tied candidates) where the correct one is among them.
    """
    votes = Counter(
        (record.status == "correct", "" if record.status == "correct" else record.extracted)
        for record in answers
        if record.extracted is not None
    )
    most = max(votes.values(), default=0)
    tied = [is_correct for (is_correct, _), count in votes.items() if count == most]
    return sum(tied) / len(tied) if tied else 0.0


def compression(reference: float | None, chain_length: Interval | None) -> Interval | None:
    """Mean #L of the reference / mean #L; None where there is no reference or #L is 0.

    The interval is that of #L, the reference taken as exact; where #L may be 0, compression is unbounded.
    """
    if not reference or chain_length is None or chain_length.value <= 0:
        return None
    high = reference / chain_length.low if chain_length.low > 0 else float("inf")
    return Interval(reference / chain_length.value, reference / chain_length.high, high)


def _interval_over_questions(records: Sequence[Record]) -> Interval | None:
    means = [
        fsum(record.chain_length for record in answers) / len(answers) for answers in by_question(records).values()
    ]
    return mean_interval(means).clipped(low=0) if means else None


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
