"""From answer texts to verdicts, for every task: extract by kind and compare, in the shared workers where needed."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.answers.check import quick_verdict
from latbench.answers.extract import AnswerKind
from latbench.answers.paper_scorers import paper_verdict
from latbench.answers.workers import shared_pool
from latbench.task import RunOn, Score, Scorer


def score_answers(
    pairs: Sequence[tuple[str, str]], kind: AnswerKind, scorer: Scorer = "default", run_on: RunOn = "first"
) -> list[Score]:
    """Verdicts on (answer text, gold) pairs, in order.

    Args:
        pairs: the text a model wrote after its reasoning, and the reference answer.
        kind: what the task's answers are.
        scorer: "default", or a paper's own scorer, which reads numbers whatever the kind.
        run_on: whether the "first" or the "last" answer counts where a text runs on to further questions.
    """
    if scorer != "default":
        verdicts = [paper_verdict(text, gold, scorer) for text, gold in pairs]
        return [Score(status=status, extracted=extracted) for status, extracted in verdicts]
    return shared_pool().score_many(pairs, kind, run_on)


def gold_fault(answer: str, kind: AnswerKind) -> str | None:
    """Why `answer` cannot be a gold answer of this kind, or None; such a row would be wrong whatever is answered."""
    if quick_verdict(answer, answer, kind) in (None, "correct"):  # None: left to Math-Verify, hence mathematics
        return None
    return f"is no answer of kind {kind!r}: {answer[:40]!r}"
