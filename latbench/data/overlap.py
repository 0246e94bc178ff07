"""Which training rows ask a question of a test set: questions are compared in a normal form."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latbench.task import Example, Task

DASH = re.compile("[\u2010-\u2015\u2212]")  # hyphens, dashes and the minus sign
QUOTE = re.compile("[\u2018\u2019\u02bc]")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
APART = re.compile(r"\s+(?=n't\b)")  # tokenised text: `did n't`
# What is read of a question: numbers, words, LaTeX commands, signs of arithmetic (`x+1` and `x-1` are two questions).
TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\?[^\W\d_]+|[+\-*/%=<>^()]")


@dataclass(frozen=True, kw_only=True)
class ContaminationReport:
    """Overlap of a training set with a test set.

    Args:
        num_train: training rows compared.
        num_test: test rows compared.
        pairs: (training id, test id) of every pair of rows with one normalised question.
    """

    num_train: int
    num_test: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def num_train_overlapping(self) -> int:
        """Training rows that are a test question."""
        return len({train for train, _ in self.pairs})

    @property
    def num_test_overlapping(self) -> int:
        """Test rows whose question is a training question."""
        return len({test for _, test in self.pairs})

    def without(self, train: Sequence[Example]) -> list[Example]:
        """The training rows that ask no test question, in order."""
        leaked = {train_id for train_id, _ in self.pairs}
        return [example for example in train if example.id not in leaked]


def normalised_question(question: str) -> str:
    """The question as its words, numbers and signs, in one case and one form of each character, apart by single blanks.

    Punctuation, braces, white space, thousands separators and hyphens between words do not count, so that tokenised
    copies (`did n't`, `full - time`, `$ 1346`) equal their source. The signs and brackets of a formula do count.
    """
    text = question
    if not question.isascii():
        text = QUOTE.sub("'", DASH.sub("-", unicodedata.normalize("NFKC", question)))
    tokens = TOKEN.findall(APART.sub("", THOUSANDS.sub("", text.casefold())))
    return " ".join(token for index, token in enumerate(tokens) if token != "-" or not _joins_words(tokens, index))


def normalised_row(example: Example) -> str:
    """The normal form of what a row asks: its question, after the further texts of the row that are shown with it."""
    return "\n".join(map(normalised_question, (*example.beside, example.question)))


def _joins_words(tokens: Sequence[str], index: int) -> bool:
    """The `-` at this index is a hyphen (`pie-eating`, `T-shirt`, `5-day`), not a minus (`x-1`, `a-b`)."""
    if not 0 < index < len(tokens) - 1:
        return False
    before, after = tokens[index - 1], tokens[index + 1]
    return after.isalpha() and (
        (before.isalpha() and max(len(before), len(after)) > 1) or (before[-1].isdigit() and len(after) > 1)
    )


def contamination(train: Sequence[Example], test: Sequence[Example]) -> ContaminationReport:
    """Which training rows ask a test question; pairs in training order."""
    tests: dict[str, list[str]] = defaultdict(list)
    for example in test:
        tests[normalised_row(example)].append(example.id)
    pairs = tuple((example.id, test_id) for example in train for test_id in tests.get(normalised_row(example), ()))
    return ContaminationReport(num_train=len(train), num_test=len(test), pairs=pairs)


def overlaps(
    train: Sequence[Example], tasks: Mapping[str, Task[Any]], *, required: bool
) -> dict[str, ContaminationReport]:
    """What training rows share with the test splits of tasks, by their names.

    Args:
        required: test data that are not at hand are an error; else that task is left out, as is one without test split.
    Raises: ValueError: see `required`.
    """
    found = {}
    for name, task in tasks.items():
        if "test" not in task.splits and not required:
            continue
        try:
            found[name] = contamination(train, task.load("test"))
        except ValueError:  # the training data are here, the test data are not
            if required:
                raise
    return found
