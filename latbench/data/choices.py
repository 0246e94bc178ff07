"""Rows of multiple-choice sets: how stem and choices become one question."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from latbench.data.hub import Row


def choice_fields(stem: str, choices: Sequence[str], answer: int) -> Row:
    """What a row of a multiple-choice set holds beside its id and steps: question, answer, stem, choices, answer_text.

    Args:
        stem: the question without its choices.
        choices: their texts; whatever the source calls them, they are labelled A, B, C ... here.
        answer: index of the right one.
    Raises: ValueError: there is no such choice.
    """
    if not 0 <= answer < len(choices):
        raise ValueError(f"the answer is choice {answer + 1} of {len(choices)}")
    labelled = [{"label": label, "text": text} for label, text in zip(ascii_uppercase, choices, strict=False)]
    lines = [f"({choice['label']}) {choice['text']}" for choice in labelled]
    return {
        "question": "\n".join([stem, *lines]),
        "answer": labelled[answer]["label"],
        "stem": stem,
        "choices": labelled,
        "answer_text": choices[answer],
    }
