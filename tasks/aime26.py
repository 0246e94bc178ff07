"""AIME 2026: the 30 problems of the American Invitational Mathematics Examination, integer answers 0 to 999.

Rows 1 to 15 are contest I, 16 to 30 contest II. Row 17 needs its figure, which the text gives as [asy] code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem_idx (1 to 30), problem, answer."""
    return {
        "id": f"aime26-{int(hub['problem_idx']):02d}",
        "question": hub["problem"],
        "steps": [],
        "answer": number_text(hub["answer"]),
    }


@register_task("aime26", config=TaskConfig)
class Aime26(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="aime26.jsonl",
            num_rows=30,
            hub=HubSource(
                id="MathArena/aime_2026",
                revision="d2de22f3c656b4f56cf8981212186377d1e23bc3",
                split="train",  # the only one
                row=hub_row,
            ),
        )
    }
