"""From answer texts to verdicts, for every task: extract by kind and compare, in the shared workers where needed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from latbench.answers.check import quick_verdict
from latbench.answers.extract import AnswerKind, extract
from latbench.answers.paper_scorers import paper_verdict
from latbench.answers.prose import is_denied
from latbench.answers.workers import shared_pool
from latbench.task import RunOn, Score, Scorer

WORD = re.compile(r"\w+")


def score_answers(
    pairs: Sequence[tuple[str, str]],
    kind: AnswerKind,
    scorer: Scorer = "default",
    run_on: RunOn = "first",
    labels: Sequence[str] = (),
) -> list[Score]:
    """Verdicts on (answer text, gold) pairs, in order.

    Args:
        pairs: the text a model wrote after its reasoning, and the reference answer.
        kind: what the task's answers are.
        scorer: "default", or a paper's own scorer, which reads numbers whatever the kind.
        run_on: whether the "first" or the "last" answer counts where a text runs on to further questions.
        labels: the only answers there are, single words; a sentence answers with the one that it names.
    """
    if scorer != "default":
        verdicts = [paper_verdict(text, gold, scorer) for text, gold in pairs]
        return [Score(status=status, extracted=extracted) for status, extracted in verdicts]
    scores = shared_pool().score_many(pairs, kind, run_on)
    if not labels:
        return scores
    return [_by_label(score, gold, labels) for score, (_, gold) in zip(scores, pairs, strict=True)]


def gold_fault(answer: str, kind: AnswerKind) -> str | None:
    """Why `answer` cannot be a gold answer of this kind, or None; such a row would be wrong whatever is answered."""
    said = extract(answer, kind) if kind == "choice" else answer
    if quick_verdict(answer, said, kind) in (None, "correct"):  # None: left to Math-Verify, hence mathematics
        return None
    wanted = ", a single letter from A to J" if kind == "choice" else ""
    return f"is no answer of kind {kind!r}{wanted}: {answer[:40]!r}"


def _by_label(score: Score, gold: str, labels: Sequence[str]) -> Score:
    """The verdict on the label that an extracted sentence names: the one it opens with, else the last (`Yes, since
    ...`, `... so the answer is no`). A denied one (`it is not true`) is not named. A sentence that names none keeps its
    verdict."""
    if score.status != "incorrect" or score.extracted is None:
        return score
    by_word = {label.casefold(): label for label in labels}
    sentence = score.extracted.casefold()
    words = list(WORD.finditer(sentence))
    named = [by_word[word[0]] for word in words if word[0] in by_word and not is_denied(sentence, word.start())]
    if not named:
        return score
    chosen = named[0] if words[0][0] in by_word else named[-1]
    return Score(status="correct" if chosen == gold else "incorrect", extracted=chosen)
