"""MinervaMath: 272 problems of MIT OpenCourseWare, numbers and formulas (Lewkowycz et al., arXiv:2206.14858).

The set that the paper calls OCWCourses. Many answers are physical quantities without their unit. They are compared as
all decimals are, within 1e-4 and within a thousandth of small ones: 27.4 is not 27.39, and 4.51e33 is not 4.5e33.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns question and answer."""
    return {
        "id": f"minerva-math-hub-{index:03d}",
        "question": hub["question"],
        "steps": [],
        "answer": str(hub["answer"]).strip(),
    }


@register_task("minerva_math", config=TaskConfig)
class MinervaMath(FileTask[TaskConfig]):
    kind = "math"
    sources: ClassVar = {
        "test": Source(
            file="minerva_math.jsonl.gz",
            num_rows=272,
            hub=HubSource(
                id="math-ai/minervamath",
                revision="ee46ddc498933b1977577953250ca5c66be64f96",
                split="test",
                row=hub_row,
            ),
        )
    }
