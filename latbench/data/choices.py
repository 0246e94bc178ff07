"""Rows of multiple-choice sets: how stem and choices become one question."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.answers.extract import CHOICE_LETTERS
from latbench.data.hub import Row


def choice_fields(stem: str, choices: Sequence[str], answer: int) -> Row:
    """What a row of a multiple-choice set holds beside its id and steps: question, answer, stem, choices, answer_text.

    Args:
        stem: the question without its choices.
        choices: their texts; whatever the source calls them, they are labelled A, B, C ... here.
        answer: index of the right one.
    Raises: ValueError: there is no such choice, or more of them than letters that an answer is read as.
    """
    if len(choices) > len(CHOICE_LETTERS):
        raise ValueError(
            f"there are {len(choices)} choices, but answers are letters from A to {CHOICE_LETTERS[-1]}; leave some out"
        )
    if not 0 <= answer < len(choices):
        raise ValueError(f"the answer is choice {answer + 1} of {len(choices)}")
    labelled = [{"label": label, "text": text} for label, text in zip(CHOICE_LETTERS, choices, strict=False)]
    lines = [f"({choice['label']}) {choice['text']}" for choice in labelled]
    return {
        "question": "\n".join([stem, *lines]),
        "answer": labelled[answer]["label"],
        "stem": stem,
        "choices": labelled,
        "answer_text": choices[answer],
    }
