r"""Flawed Fictions: does a short story contradict itself (Ahuja et al., arXiv:2504.11900).

414 stories, half with a continuity error. They have no splits: as in LiteReason (arXiv:2512.02240) they are shuffled
with seed 42, and of the last 15 % each validation and test are made (Alex-Gurung/LiteReason@cf68f72
litereason/experiments/flawed_fictions/download_dataset.py:65-72); the shuffle is NumPy's default generator, which
`datasets` uses. The answer is Yes or No in the last box, all but its letters left out; without a box there is no answer
(reward_func.py of that folder). The lines that contradict each other are asked for, kept as meta data
(`cont_error_lines`, `contradicted_lines`) and not scored. There are no reasoning steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.registry import register_task
from latbench.task import STRICT, Example, Score, TaskConfig

NUM_STORIES, NUM_HELD_OUT, SEED = 414, 62, 42
LABELS = ("No", "Yes")  # of cont_error 0 and 1
_BOX = re.compile(r"\\boxed\{([^{}]*)\}", re.IGNORECASE)
PROMPT = (
    "A continuity error is something in a story that contradicts what the story has said before about its world or its "
    "characters.\n\nDoes the story below have one? Think step by step, then end with \\boxed{{Yes}} or \\boxed{{No}}. "
    "If it has one, quote before the box the lines that bring it in and the earlier lines that they contradict:\n"
    "<contradicted_lines>\n(the lines)\n</contradicted_lines>\n\n<story>\n{story}\n</story>\n\nCheck your work."
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlawedFictionsConfig(TaskConfig):
    """How an answer is read."""

    boxed: bool = True
    """Only an answer in a box counts, as published; false: one that is a single word counts as well."""


def hub_row(published: Mapping[str, Any], index: int) -> Row:
    """Columns story, cont_error, cont_error_expl, cont_error_lines, contradicted_lines, example_id."""
    label = int(published["cont_error"])
    if label not in (0, 1):
        raise ValueError(f"field 'cont_error' is {label}, not 0 or 1")
    return {
        "id": f"flawed-fictions-{index:03d}",
        "question": published["story"],
        "steps": [],
        "answer": LABELS[label],
        **{
            name: published[name]
            for name in ("cont_error_expl", "cont_error_lines", "contradicted_lines", "example_id")
        },
    }


SOURCE = Source(
    file="flawed_fictions.jsonl",
    num_rows=NUM_STORIES,
    row=hub_row,
    hub=HubSource(id="kahuja/flawed-fictions", split="flawed_fictions", row=hub_row),
)


@register_task("flawed_fictions", config=FlawedFictionsConfig)
class FlawedFictions(FileTask[FlawedFictionsConfig]):
    kind = "text"
    sources: ClassVar = {"train": SOURCE, "validation": SOURCE, "test": SOURCE}

    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        """The split's part of the shuffled stories."""
        order = np.random.default_rng(SEED).permutation(len(examples))
        train = len(examples) - 2 * NUM_HELD_OUT
        first, end = {
            "train": (0, train), "validation": (train, train + NUM_HELD_OUT),
            "test": (train + NUM_HELD_OUT, len(examples)),
        }[split]  # fmt: skip
        return [examples[place] for place in order[first:end]], f"shuffled with seed {SEED}, {first}:{end}"

    def prompt(self, example: Example) -> str:
        """What a continuity error is, how to answer, and the story."""
        return PROMPT.format(story=example.question)

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Verdicts on the last box."""
        if self.config.scorer != "default":
            return super().score_many(pairs)
        return [self._score(text, example.answer) for text, example in pairs]

    def _score(self, text: str, gold: str) -> Score:
        boxes = _BOX.findall(text)
        if not boxes and self.config.boxed:
            return Score(status="no_answer", extracted=None)
        letters = re.sub(r"[^a-z]", "", (boxes[-1] if boxes else text).lower())
        if letters not in ("yes", "no"):
            return Score(status="incorrect" if boxes else "no_answer", extracted=boxes[-1] if boxes else None)
        return Score(status="correct" if letters == gold.lower() else "incorrect", extracted=letters.capitalize())
