"""MATH: 7,500 training and 5,000 test problems, answers in LaTeX (Hendrycks et al., arXiv:2103.03874).

Steps are sentences of the solution, of the local test file its paragraphs. `math500` is 500 of the test problems. Four
test questions are in train too, one of them word for word; training counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.answers.extract import last_boxed
from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row, RowMapping
from latbench.data.solutions import math_sentences
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(split: str) -> RowMapping:
    """Columns problem, level ("Level 5", "Level ?" where unknown), solution, type; the answer is in the last box.

    Boxes joined by "and" or a comma are one answer (9 rows; the local file has the last of them alone). The two empty
    boxes of the data stand for 0.
    """

    def row(hub: Mapping[str, Any], index: int) -> Row:
        if r"\boxed" not in hub["solution"] and r"\fbox" not in hub["solution"]:
            raise ValueError(r"field 'solution' has no \boxed answer")
        level = re.fullmatch(r"Level (\d)", hub["level"])
        return {
            "id": f"math-{split}-hub-{index:04d}",
            "question": hub["problem"],
            "steps": math_sentences(hub["solution"]),
            "answer": last_boxed(hub["solution"]) or "0",
            "subject": hub["type"],
            "level": int(level[1]) if level else None,
            "solution": hub["solution"],
        }

    return row


def source(split: str, num_rows: int) -> Source:
    """File and Hub split."""
    hub = HubSource(
        id="DigitalLearningGmbH/MATH-lighteval",
        revision="0530c78699ea5e8eb5530600900e1f328b48acad",
        split=split,
        row=hub_row(split),
    )
    return Source(file=f"math_{split}.jsonl.gz", num_rows=num_rows, hub=hub)


@register_task("math", config=TaskConfig)
class Math(FileTask[TaskConfig]):
    kind = "math"
    overlaps = ("math500", "olympiadbench")
    sources: ClassVar = {"train": source("train", 7500), "test": source("test", 5000)}
