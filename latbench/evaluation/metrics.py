"""What one evaluation shows: accuracy, chain length, rates and cost, as a pure function of its records and manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, fsum
from operator import attrgetter
from pathlib import Path
from typing import get_args

from latbench.config import stable_hash
from latbench.evaluation.records import COUNTS, Evaluation, Manifest, Record
from latbench.evaluation.statistics import Interval, mean_interval, ratio_of_means, wilson_interval
from latbench.task import Status

CONTAMINATED = "{} training rows ask one of its questions"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Metrics of one evaluation.

    Lengths, steps and their means leave out questions longer than the context (`prompt_too_long`), for which nothing
    was decoded; they are None where nothing was decoded at all. Accuracy and rates count every record.

    Args:
        folder: of the evaluation.
        manifest: of the evaluation; it names the cell it belongs to.
        num_bad_lines: lines of the records that cannot be read.
        test_set: hash over what was asked, and over the ids that are left where records were lost; equal means the same
            questions, and only these stand in one table.
        n: questions.
        samples: answers per question.
        accuracy: pass@1, the mean over samples, then over questions.
        pass_at: pass@k by k, 1, 2, 4 ... and samples.
        maj_at_k: with k = samples; see the functions; like accuracy with a Wilson interval at n trials (the samples of
            a question are not independent trials).
        chain_length: mean #L (latent steps plus explicit reasoning tokens, without markers, answer and EOS), first over
            samples; t-interval over questions. Of the answers whose chain is known; None where none is.
        unknown_length: share of the decoded answers whose chain is unknown.
        means: of the counts of a record (num_latents, num_prompt_tokens ...), by field, over the answers that were
            decoded; empty where none was.
        answer_tokens: mean answer tokens without EOS.
        decode_steps: mean forward passes after the prompt, forced markers included.
        lengths: #L by question, the mean over samples.
        gold_lengths: tokens of the gold chain by question, under the run's tokenizer, of those that have one.
        statuses: number of answers by verdict.
        no_answer: share of answers with that status.
        timeout: share of answers with that status.
        truncated: share of answers with the stop reason `length`.
        prompt_too_long: share of answers with that stop reason.
        answers_per_second: over the whole evaluation; None where the manifest has no cost.
        train_flops: operations of training, the run it started from included, as in the three below; None where the
            manifest has no cost.
        train_tokens: tokens of training, without padding.
        train_seconds: wall time of training.
        train_passes: passes over the training examples.
        contaminated: training rows that ask one of these questions; None where that is not known.
        mixed_precision: whether training or answering computed in less than 32 bits.
    """

    folder: Path
    manifest: Manifest
    num_bad_lines: int
    test_set: str
    n: int
    samples: int
    accuracy: Interval
    pass_at: Mapping[int, Interval]
    maj_at_k: Interval
    chain_length: Interval | None
    unknown_length: float
    lengths: Mapping[str, float]
    means: Mapping[str, float]
    answer_tokens: float | None
    decode_steps: float | None
    gold_lengths: Mapping[str, float]
    statuses: Mapping[Status, int]
    no_answer: float
    timeout: float
    truncated: float
    prompt_too_long: float
    answers_per_second: float | None
    train_flops: float | None
    train_tokens: float | None
    train_seconds: float | None
    train_passes: float | None
    contaminated: int | None
    mixed_precision: bool


def summarise(evaluation: Evaluation) -> Summary:
    """Metrics of a complete evaluation.

    Raises: ValueError: what `problem` finds.
    """
    if found := problem(evaluation):
        raise ValueError(f"{evaluation.folder}: {found}")
    manifest, records = evaluation.manifest, evaluation.records
    questions = by_question(records)
    n, samples = len(questions), len(records) // len(questions)
    num_correct = [sum([record.status == "correct" for record in answers]) for answers in questions.values()]
    statuses, stops = Counter(record.status for record in records), Counter(record.stop_reason for record in records)
    decoded = [record for record in records if record.stop_reason != "prompt_too_long"]
    answered = questions if len(decoded) == len(records) else by_question(decoded)
    known = {
        question: [one.chain_length for one in answers if one.chain_length is not None]
        for question, answers in answered.items()
    }
    lengths = {question: sum(found) / len(found) for question, found in known.items() if found}
    gold = {question: float(answers[0].gold_chain_length) for question, answers in answered.items()}
    gold = {question: length for question, length in gold.items() if length > 0}  # of some questions none is known
    means = {name: sum(map(attrgetter(name), decoded)) / len(decoded) for name in COUNTS} if decoded else {}
    seconds, answers = manifest.evaluation.get("seconds"), manifest.evaluation.get("answers")

    return Summary(
        folder=evaluation.folder,
        manifest=manifest,
        num_bad_lines=evaluation.num_bad_lines,
        test_set=stable_hash([manifest.questions_sha256, *questions])
        if evaluation.num_lost
        else manifest.questions_sha256[:12],
        n=n,
        samples=samples,
        accuracy=wilson_interval(sum(num_correct) / samples, n),
        pass_at={
            k: wilson_interval(fsum(pass_at_k(samples, correct, k) for correct in num_correct), n)
            for k in _budgets(samples)
        },
        maj_at_k=wilson_interval(fsum(map(maj_at_k, questions.values())), n),
        chain_length=mean_interval(list(lengths.values())).clipped(low=0) if lengths else None,
        unknown_length=1 - sum(map(len, known.values())) / len(decoded) if decoded else 0.0,
        lengths=lengths,
        means=means,
        answer_tokens=means.get("num_answer_tokens"),
        decode_steps=means.get("decode_steps"),
        gold_lengths=gold,
        statuses={status: statuses[status] for status in get_args(Status)},
        no_answer=statuses["no_answer"] / len(records),
        timeout=statuses["timeout"] / len(records),
        truncated=stops["length"] / len(records),
        prompt_too_long=stops["prompt_too_long"] / len(records),
        answers_per_second=answers / seconds if answers and seconds else None,
        train_flops=manifest.train.get("flops"),
        train_tokens=manifest.train.get("tokens_seen"),
        train_seconds=manifest.train.get("seconds"),
        train_passes=manifest.train.get("epochs"),
        contaminated=manifest.contaminated,
        mixed_precision=manifest.is_rounded or (not manifest.is_untrained and _trained_in_bfloat16(manifest.config)),
    )


@dataclass(frozen=True, kw_only=True)
class Caveat:
    """Something that is known against the numbers of an evaluation."""

    name: str
    """In a few words, for a table."""
    sentence: str
    """For a reader."""
    share: float | None = None
    """Of the answers that it holds for; None: it holds for the whole evaluation."""


def caveats(summary: Summary) -> list[Caveat]:
    """What is known against the numbers of an evaluation."""
    rows, damaged, rounded = summary.contaminated, summary.num_bad_lines, summary.manifest.is_rounded
    whole = [
        (bool(rows), f"contaminated ({rows} rows)", CONTAMINATED.format(rows)),
        (
            rounded,
            "mixed precision",
            "its weights have less than 32 bits, with which another batch size can change answers",
        ),
        (summary.mixed_precision and not rounded, "mixed precision", "it was trained in bfloat16"),
        (damaged > 0, f"damaged ({damaged} lines)", f"{damaged} lines of its records could not be read"),
    ]
    shares = [
        (summary.no_answer, "no answer", "of its answers have none that could be read"),
        (summary.truncated, "truncated", "of its answers end at a cap"),
        (summary.timeout, "timeout", "of its answers were not checked in time"),
        (summary.prompt_too_long, "too long", "of its prompts exceed the context"),
    ]
    return [
        *(Caveat(name=name, sentence=sentence) for holds, name, sentence in whole if holds),
        *(
            Caveat(name=name, sentence=f"{100 * share:.1f} % {sentence}", share=share)
            for share, name, sentence in shares
            if share > 0
        ),
    ]


def _trained_in_bfloat16(config: object) -> bool:
    """Whether a run or one that it starts from was, by its configuration, which may be of any shape."""
    if not isinstance(config, Mapping):
        return False
    train = config.get("train")
    own = isinstance(train, Mapping) and train.get("precision", "float32") != "float32"
    return own or _trained_in_bfloat16(config.get("start"))


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


def readable(evaluation: Evaluation) -> Evaluation:
    """An evaluation that was complete before some of its lines were lost, as one of the questions that lost none."""
    manifest, records = evaluation.manifest, evaluation.records
    if not (records and manifest.complete and evaluation.num_bad_lines and len(records) < manifest.n):
        return evaluation
    counts = Counter(record.id for record in records)
    samples = max(counts.values())
    whole = [record for record in records if counts[record.id] == samples]
    lost = manifest.n - len(whole)
    return replace(evaluation, records=whole, manifest=replace(manifest, n=len(whole)), num_lost=lost)


def by_question(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by question id, in file order."""
    questions: dict[str, list[Record]] = {}
    for record in records:
        questions.setdefault(record.id, []).append(record)
    return questions


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that one of k answers is correct: 1 - C(n - c, k) / C(n, k) (arXiv:2107.03374, equation 1).

    Args:
        num_samples: answers to one question, n.
        num_correct: the correct ones among them, c.
    Raises: ValueError: k outside 1..n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be in 1..{num_samples} (answers per question), got {k}")
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def _budgets(samples: int) -> list[int]:
    """The k of pass@k that are shown: powers of two, and all samples."""
    return sorted({samples, *(1 << power for power in range(samples.bit_length()))})


def maj_at_k(answers: Sequence[Record]) -> float:
    """Credit of a majority vote over the k answers to one question (self-consistency, arXiv:2203.11171, section 2).

    Correct answers are one candidate, since all equal the gold answer; others are the same candidate when their
    extracted text is. Missing answers do not vote. A tie is broken at random, so that the credit is the expected one:
    1 / (number of tied candidates) where the correct one is among them.
    """
    if len(answers) == 1:
        return float(answers[0].status == "correct" and answers[0].extracted is not None)
    votes = Counter(
        (record.status == "correct", "" if record.status == "correct" else record.extracted)
        for record in answers
        if record.extracted is not None
    )
    most = max(votes.values(), default=0)
    tied = [is_correct for (is_correct, _), count in votes.items() if count == most]
    return sum(tied) / len(tied) if tied else 0.0


def compression(reference: Mapping[str, float], own: Mapping[str, float]) -> Interval | None:
    """Mean #L of the reference / mean #L, with an interval over questions, of which each is its own pair.

    Args:
        reference: #L of the reference by question; questions that one of the two lacks are left out.
        own: #L of the run by question.
    Returns: None where there is no reference, or #L is 0.
    """
    asked = [question for question in own if question in reference]
    found = ratio_of_means([reference[question] for question in asked], [own[question] for question in asked])
    return found.clipped(low=0) if found is not None and found.value > 0 else None
