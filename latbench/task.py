"""What every benchmark implements: examples, a prompt, and a verdict on an answer text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass

Status = Literal["correct", "incorrect", "no_answer", "timeout"]
StopReason = Literal["eos", "stop", "length", "prompt_too_long"]
PaperScorer = Literal["after_hash", "last_number", "after_answer"]
Scorer = Literal["default", PaperScorer]
RunOn = Literal["first", "last"]
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
# Marks a field younger than committed results: `Field(default=..., json_schema_extra=YOUNGER)`. Every run before it
# had its default, so at its default it is no part of an identity, and run ids and settings stay what they were.
YOUNGER: dict[str, Any] = {"younger": True}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem.

    Args:
        id: unique and stable within its split.
        question: the problem text.
        steps: explicit reasoning steps, may be empty.
        answer: the gold answer.
        meta: further fields of the source row (level, subject, graph ...), never read by a method.
        beside: further texts of the row that the task's prompt shows; equal questions beside other texts differ.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    beside: tuple[str, ...] = ()

    def without_steps(self, num_dropped: int | None) -> Example:
        """The example without its first `num_dropped` steps; None drops every step."""
        return replace(self, steps=() if num_dropped is None else self.steps[num_dropped:])


@dataclass(frozen=True, kw_only=True)
class Score:
    """Verdict on one answer text; two missing answers are never equal.

    Args:
        status: correct, incorrect, no_answer or timeout.
        extracted: the answer that was read from the text; None: there is none.
    """

    status: Status
    extracted: str | None

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.status == "correct"

    def __bool__(self) -> bool:
        """Raises: TypeError: always, because a verdict of "incorrect" would be true like any other object."""
        raise TypeError("a Score has no truth value; ask for score.correct, or compare score.status")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What identifies the data of a run: where it came from, its bytes and its size.

    Args:
        source: file name, Hub id with revision, or generator name with its settings.
        sha256: of the file's bytes as read (packed), or of the rows' canonical JSON where there is no file.
        num_examples: after all filters.
    """

    source: str
    sha256: str
    num_examples: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One quantity of a problem's dependency graph.

    Args:
        value: as text.
        step: the one of `Example.steps` that computes it.
        needs: indices of what it is computed from.
    """

    value: str
    step: str
    needs: tuple[int, ...]


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskConfig:
    """Settings shared by all tasks."""

    scorer: Scorer = "default"
    """How answers are compared: "default", or as the code of a paper does it, for comparison: `after_hash` (Coconut),
    `last_number` (CODI), `after_answer` (CoLaR)."""
    run_on: RunOn = Field(default="first", json_schema_extra=YOUNGER)
    """Whether the "first" or the "last" answer counts where a text runs on to further questions (several `####`, or a
    line that begins with `Question:`): "first" by default, because `####` ends a solution and what follows belongs to
    another question; lm-eval's strict match reads the first as well."""


ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class Task(ABC, Generic[ConfigT]):
    """A benchmark: loads splits, words the prompt, scores answer texts.

    A subclass is registered with `@register_task("name", config=...)`; the registered name is the file's name.
    """

    name: ClassVar[str]  # set by the registry
    splits: ClassVar[tuple[str, ...]] = ("test",)
    disjoint_splits: ClassVar[bool] = False  # by construction, whatever the settings: nothing needs to be compared
    overlaps: ClassVar[tuple[str, ...]] = ()
    """Other tasks that ask questions of its training split in their test split; training on it counts them."""
    answers_teach: ClassVar[bool] = True  # they are what a model should write, so that it can learn from them
    words: ClassVar[tuple[str, ...]] = ()  # of its texts, each a token of the embedded tokenizer with `model.words`

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def load(self, split: str) -> list[Example]:
        """All examples of a split, in file order.

        Raises: ValueError: the split does not exist, the data are not at hand, or a row is malformed.
        """

    @abstractmethod
    def fingerprint(self, split: str) -> Fingerprint:
        """What identifies the data of this split (manifest, cell identity)."""

    def is_at_hand(self, split: str) -> bool:
        """Whether the split can be read without a look into a cache or a download; always so where it is generated."""
        return True

    def prompt(self, example: Example) -> str:
        """The text a model is asked, without markers or chat template; the question itself unless overridden."""
        return example.question

    def paths(self, example: Example) -> list[tuple[str, ...]]:
        """Distinct correct chains of a problem, as steps, the gold one among them; none where they are not known."""
        return []

    def graph(self, example: Example) -> list[Node]:
        """The quantities of a problem with what each needs, in any order; none where the graph is not known."""
        return []

    @abstractmethod
    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Verdicts on (answer text, example) pairs, in order; the text is never evaluated as code."""

    def score(self, text: str, example: Example) -> Score:
        """Verdict on one answer text."""
        return self.score_many([(text, example)])[0]

    def rewards(self, pairs: Sequence[tuple[str, Example]]) -> list[float]:
        """What reinforcement learning pays for (answer text, example) pairs, in order: 1 where correct, else 0."""
        return [float(score.status == "correct") for score in self.score_many(pairs)]
