"""HMMT February 2025: 30 problems of the Harvard-MIT Mathematics Tournament, answers in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem_idx (1 to 30), problem, answer, problem_type (a list)."""
    return {
        "id": f"hmmt-feb25-{int(hub['problem_idx']):02d}",
        "question": hub["problem"],
        "steps": [],
        "answer": str(hub["answer"]),
        "subject": ", ".join(hub["problem_type"]),
    }


@register_task("hmmt_feb25", config=TaskConfig)
class HmmtFeb25(FileTask[TaskConfig]):
    kind = "math"
    sources: ClassVar = {
        "test": Source(
            file="hmmt_feb25.jsonl",
            num_rows=30,
            hub=HubSource(
                id="MathArena/hmmt_feb_2025",
                revision="6fdc4277120810ff75aa22d2d5489b91f7a262a1",
                split="train",  # the only one
                row=hub_row,
            ),
        )
    }
