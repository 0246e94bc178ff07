"""Texts to verdicts for every kind, the papers' scorers, and golds that no answer could equal."""

from __future__ import annotations

import pytest

from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import gold_fault, score_answers


def test_verdicts_keep_the_order_of_the_pairs() -> None:
    pairs = [("it is 3", "3"), ("", "3"), ("4", "3"), ("3.0", "3")]
    assert [score.status for score in score_answers(pairs, "number")] == [
        "correct", "no_answer", "incorrect", "correct",
    ]  # fmt: skip
    assert score_answers([], "math") == []


@pytest.mark.parametrize(
    ("kind", "text", "gold"),
    [
        ("number", "#### 1,200", "1200"),
        ("math", r"so \boxed{\frac12}", r"\frac{1}{2}"),
        ("text", "tuesday.", "Tuesday"),
    ],
)
def test_every_kind_is_extracted_and_compared(kind: AnswerKind, text: str, gold: str) -> None:
    [score] = score_answers([(text, gold)], kind)
    assert score.status == "correct"
    assert score.extracted is not None


def test_paper_scorers_replace_extraction_and_comparison() -> None:
    pair = [("The answer is 18.0", "18")]
    assert [score_answers(pair, "number", scorer)[0].status for scorer in ("default", "last_number", "after_hash")] == [
        "correct", "correct", "incorrect",
    ]  # fmt: skip


def test_run_on_says_which_answer_counts() -> None:
    pair = [("#### 5\nQuestion: and now?\n#### 6", "6")]
    assert score_answers(pair, "number")[0].status == "incorrect"
    assert score_answers(pair, "number", run_on="last")[0].status == "correct"


def test_golds_that_nothing_could_equal_are_faulted() -> None:
    assert gold_fault("12.5", "number") is None
    assert gold_fault(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "math") is None
    assert [gold_fault(letter, "choice") for letter in ("A", "j", "I", "(B)")] == [None] * 4
    assert gold_fault("K", "choice") == "is no answer of kind 'choice', a single letter from A to J: 'K'"
    assert gold_fault("A cat", "choice") is not None
    assert gold_fault("about ten", "number") == "is no answer of kind 'number': 'about ten'"
