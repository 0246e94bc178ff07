"""AIME 2025: the 30 problems of the American Invitational Mathematics Examination, integer answers 0 to 999."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem and answer; the 15 problems of contest I, then those of II."""
    contest, number = "I" if index < 15 else "II", index % 15 + 1
    return {
        "id": f"aime25-{contest}-{number:02d}",
        "question": hub["problem"],
        "steps": [],
        "answer": number_text(hub["answer"]),
        "subject": f"AIME {contest} 2025",
        "problem_number": number,
    }


@register_task("aime25", config=TaskConfig)
class Aime25(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="aime25.jsonl",
            num_rows=30,
            hub=HubSource(
                id="math-ai/aime25",
                revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
                split="test",
                row=hub_row,
            ),
        )
    }
