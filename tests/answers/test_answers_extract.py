"""Extraction: markers in their order of strength, per kind; hostile text returns."""

from __future__ import annotations

import pytest

from latbench.answers.extract import MAX_TEXT_CHARS, AnswerKind, extract

SIZE = 2 * MAX_TEXT_CHARS
HOSTILE = {
    "digits": "9" * 10**7,
    "opening braces": "{" * 10**7,
    "opening boxes": r"\boxed{" * (SIZE // 7),
    "opening displays": r"\[" * (SIZE // 2),
    "opening formulas": r"\(" * (SIZE // 2),
    "dollars": "$ " * (SIZE // 2),
    "spaces after a marker": "answer" + " " * SIZE + "x",
    "spaces after a box": r"\boxed" + " " * SIZE,
    "markers": "answer is " * (SIZE // 10),
    "hashes": "#### a\n" * (SIZE // 7),
    "thousands": "111," * (SIZE // 4),
    "equations": "1=" * (SIZE // 2),
    "backslashes": "\\" * SIZE,
    "matrix rows": r"[\\" * (SIZE // 3),
    "row spacing": r"\\[2pt]" * (SIZE // 7),
    "dollar signs": "$" * SIZE,
    "amounts": "$5 and " * (SIZE // 7),
    "boxes": r"\boxed{1} and " * (SIZE // 14),
    "a box of braces": r"\boxed{" + "{" * SIZE + "}" * SIZE,
    "a box of words": r"\boxed{" + "is 5, so " * (SIZE // 9) + "}",
    "headings": "**Answer**\n" * (SIZE // 11),
    "objects": '{"answer": "' * (SIZE // 12),
    "tags": "<answer><think></think>" * (SIZE // 23),
    "answers to what": "answer to " * (SIZE // 10),
    "questions": "#### 1\nQuestion: " * (SIZE // 18),
    "annotations": "<<1=1" * (SIZE // 5),
    "superscripts": "²" * SIZE,
    "fractions": "½" * SIZE,
    "foreign letters": "ß" * SIZE,
    "bold": "**1** " * (SIZE // 6),
}


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", r"The answer is 3. \boxed{4} #### 5", "4"),
        ("number", "The answer is 3. #### 5", "5"),
        ("number", "1 then 2. The answer is 3, not 4.", "3"),
        ("number", "1 then 2 then -1,234.50 dollars", "-1234.50"),
        ("number", "The answer is unknown, perhaps 7", "7"),
        ("number", "$3 + $4 = $7", "7"),
        ("number", "nothing", None),
        ("number", "<think>It is 3.</think> It is 4.", "4"),
        ("number", "It must be 3.</think> It is 4.", "4"),
        ("number", r"<think>It must be \boxed{3}", None),
        ("number", "#### 1. Count\nThere are 5.\n#### 2. Result\n#### 6", "6"),
        ("number", "9 * 2 = $<<9*2=18>>18", "18"),
        ("number", r"\boxed{2^{5}}", "2^{5}"),
        ("math", r"\boxed{1}\quad\text{and}\quad\boxed{2}", "1, 2"),
        ("math", r"\boxed{1}, \boxed{1}", "1"),
        ("math", "Final Answer: The slope is $\\frac{1}{2}$.", r"\frac{1}{2}"),
        ("number", "", None),
        ("math", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("math", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("math", r"\boxed{1}, or $\boxed{2}$.", "1, 2"),
        ("math", r"\boxed{1} is wrong, it is \boxed{2}.", "2"),
        ("math", "#### x^2 + 1", "x^2 + 1"),
        ("math", "The answer is $x^2$ and $3$.", "$x^2$ and $3$"),
        ("math", "The answer is\n$$\nx^2\n$$\nas shown.", "x^2"),
        ("math", r"The answer is: \[ x^2 \]", "x^2"),
        ("math", "The answer is 5 cm. That is all.", "5 cm"),
        ("math", "x^2 + 1", "x^2 + 1"),
        ("math", "So $a = 2$ and then $b = 3$ as the rest shows", "b = 3"),
        ("math", "It costs $5 more than the $6 of the other, so 11", "11"),
        ("choice", "A and B are wrong. The answer is (C).", "C"),
        ("choice", "I think D", "D"),
        ("choice", "d", "D"),
        ("choice", "Alas", None),
        ("text", " Tom is a lempus. ", "Tom is a lempus."),
        ("text", "The answer is Tuesday.", "Tuesday"),
        ("text", "", None),
    ],
)
def test_strongest_marker_wins(kind: AnswerKind, text: str, answer: str | None) -> None:
    assert extract(text, kind) == answer


RUN_ON = [
    "She has 4 + 3 = 7 left.\n#### 7\n\nQuestion: How many are red?\nAnswer: 7 - 5 = 2\n#### 2",
    "#### 7\n#### 2",
    "#### 7 #### 2",
    "The answer is 7.\n\nQ: How many are red?\nA: The answer is 2.",
    r"So it is \boxed{7}." + "\nProblem 2: How many are red?\n" + r"So it is \boxed{2}.",
    "7\n\nQuestion: How many are red?\nAnswer: 2",
    "7 \nQ: How many are red?\nA: 2",
    "<answer>7</answer>\nUser: And how many are red?\n<answer>2</answer>",
]


@pytest.mark.parametrize("text", RUN_ON)
@pytest.mark.parametrize("kind", ["number", "math"])
def test_of_a_text_that_runs_on_the_first_answer_counts_unless_told_otherwise(kind: AnswerKind, text: str) -> None:
    assert extract(text, kind) == "7"
    assert extract(text, kind, "last") == "2"


def test_of_bare_answers_before_a_question_the_first_counts() -> None:
    assert extract("B\n\nQuestion: And now?\nAnswer: D", "choice") == "B"
    assert extract("7 apples.\nQuestion: And now?\n2 pears", "number") == "7"
    assert extract("Yes\nQuestion: And now?\nAnswer: No", "text") == "Yes"
    assert extract("1. Repeat it.\nQuestion: How many are red?\nAnswer: 2", "number") == "2"


def test_a_question_that_is_repeated_before_the_answer_ends_nothing() -> None:
    assert extract("Let me see.\nQuestion: How many are red?\nThe answer is 2.", "number") == "2"


@pytest.mark.parametrize("kind", ["number", "math", "choice", "text"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_returns(name: str, kind: AnswerKind) -> None:
    answer = extract(HOSTILE[name], kind)
    assert answer is None or len(answer) <= MAX_TEXT_CHARS
