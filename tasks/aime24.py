"""AIME 2024: the 30 problems of the American Invitational Mathematics Examination, integer answers 0 to 999."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig

ADDRESS = re.compile(r"2024_AIME_(I{1,2})_Problems/Problem_(\d+)")


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns problem, solution, answer ("073"), url (names contest and number); solutions are several in one."""
    address = ADDRESS.search(hub["url"])
    if address is None:
        raise ValueError(f"field 'url' names no problem of AIME 2024: {hub['url']!r}")
    contest, number = address[1], int(address[2])
    return {
        "id": f"aime24-{contest}-{number:02d}",
        "question": hub["problem"],
        "steps": [],
        "answer": number_text(hub["answer"]),
        "subject": f"AIME {contest} 2024",
        "problem_number": number,
        "solution": hub["solution"],
        "url": hub["url"],
    }


@register_task("aime24", config=TaskConfig)
class Aime24(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="aime24.jsonl",
            num_rows=30,
            hub=HubSource(
                id="HuggingFaceH4/aime_2024",
                revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
                split="train",  # the only one
                row=hub_row,
            ),
        )
    }
