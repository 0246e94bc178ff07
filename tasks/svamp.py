"""SVAMP: one-step word problems with varied wording (Patel et al., arXiv:2103.07191).

All 1000 problems: the Hub's train and test splits joined, as the latent-reasoning papers do.
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
    """Columns ID, Body, Question, Equation, Answer, Type; Body gets a missing full stop, then Question follows."""
    body = hub["Body"].strip()
    return {
        "id": f"svamp-{hub['ID']}",
        "question": f"{body if body.endswith(('.', '!', '?')) else body + '.'} {hub['Question'].strip()}",
        "steps": [hub["Equation"].strip()],
        "answer": number_text(hub["Answer"]),
        "subject": hub["Type"],
    }


@register_task("svamp", config=TaskConfig)
class Svamp(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="svamp.jsonl",
            num_rows=1000,
            hub=HubSource(
                id="ChilleD/SVAMP",
                revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
                split="train+test",
                row=hub_row,
            ),
        )
    }
