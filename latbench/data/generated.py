"""A task whose examples are generated: its identity is their hash, its answers are compared by kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import score_answers
from latbench.data.rows import rows_hash
from latbench.task import ConfigT, Example, Fingerprint, Score, Task


class GeneratedTask(Task[ConfigT]):
    """A task that makes its examples, always the same ones; a subclass supplies `examples`."""

    kind: ClassVar[AnswerKind]
    """How answers are read and compared: number, math, choice or text."""
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    @abstractmethod
    def examples(self, split: str) -> list[Example]:
        """The examples of one of `splits`; random choices are keyed by the split and the task's settings."""

    def load(self, split: str) -> list[Example]:
        """All examples of a split. Raises: ValueError: the split does not exist."""
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}; available: {', '.join(self.splits)}")
        return self.examples(split)

    def fingerprint(self, split: str) -> Fingerprint:
        """The task's name and the hash of its examples as canonical JSON lines."""
        examples = self.load(split)
        rows = [
            (
                example.id,
                {"id": example.id, "question": example.question, "steps": [*example.steps], "answer": example.answer},
            )
            for example in examples
        ]
        return Fingerprint(source=f"{self.name}: generated", sha256=rows_hash(rows), num_examples=len(rows))

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Verdicts by the task's kind of answer."""
        answers = [(text, example.answer) for text, example in pairs]
        return score_answers(answers, self.kind, self.config.scorer, self.config.run_on)
