"""AMC 2023: the 40 problems of AMC 12A and 12B 2023 in the form with an integer answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns question, answer (a float or its text), url."""
    return {
        "id": f"amc23-hub-{index:02d}",
        "question": hub["question"],
        "steps": [],
        "answer": number_text(hub["answer"]),
        "url": hub["url"],
    }


@register_task("amc23", config=TaskConfig)
class Amc23(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="amc23.jsonl",
            num_rows=40,
            hub=HubSource(
                id="math-ai/amc23",
                revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
                split="test",
                row=hub_row,
            ),
        )
    }
