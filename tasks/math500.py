"""MATH-500: 500 problems of the MATH test set, answers in LaTeX (Lightman et al., arXiv:2305.20050)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import math_sentences
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem, solution, answer, subject, level, unique_id."""
    return {
        "id": f"math500-hub-{index:03d}",
        "question": hub["problem"],
        "steps": math_sentences(hub["solution"]),
        "answer": hub["answer"],
        "subject": hub["subject"],
        "level": int(hub["level"]),
        "unique_id": hub["unique_id"],
    }


@register_task("math500", config=TaskConfig)
class Math500(FileTask[TaskConfig]):
    kind = "math"
    sources: ClassVar = {
        "test": Source(
            file="math500.jsonl",
            num_rows=500,
            hub=HubSource(
                id="HuggingFaceH4/MATH-500",
                revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
                split="test",
                row=hub_row,
            ),
        )
    }
