"""MATH, its 7,500 training problems with sentences of the solution as steps (Hendrycks et al., arXiv:2103.03874).

The test problems of MATH are evaluated through `math500`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.answers.extract import last_boxed
from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import math_sentences
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem, level ("Level 5", "Level ?" where unknown), solution, type; the answer is in the last box.

    Boxes joined by "and" or a comma are one answer (9 rows; the local file has the last of them alone). The two empty
    boxes of the data stand for 0.
    """
    if r"\boxed" not in hub["solution"] and r"\fbox" not in hub["solution"]:
        raise ValueError(r"field 'solution' has no \boxed answer")
    level = re.fullmatch(r"Level (\d)", hub["level"])
    return {
        "id": f"math-train-hub-{index:04d}",
        "question": hub["problem"],
        "steps": math_sentences(hub["solution"]),
        "answer": last_boxed(hub["solution"]) or "0",
        "subject": hub["type"],
        "level": int(level[1]) if level else None,
        "solution": hub["solution"],
    }


@register_task("math", config=TaskConfig)
class Math(FileTask[TaskConfig]):
    kind = "math"
    sources: ClassVar = {
        "train": Source(
            file="math_train.jsonl.gz",
            num_rows=7500,
            hub=HubSource(
                id="DigitalLearningGmbH/MATH-lighteval",
                revision="0530c78699ea5e8eb5530600900e1f328b48acad",
                split="train",
                row=hub_row,
            ),
        )
    }
