"""MultiArith: word problems of several arithmetic steps (Roy and Roth, arXiv:1608.01413).

All 600 problems (20 repeat an earlier question), where some papers score 180 or 500 of them: look at n.
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
    """Columns question and final_ans."""
    return {
        "id": f"multiarith-hub-{index:03d}",
        "question": hub["question"].strip(),
        "steps": [],
        "answer": number_text(hub["final_ans"]),
    }


@register_task("multiarith", config=TaskConfig)
class MultiArith(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="multiarith.jsonl",
            num_rows=600,
            hub=HubSource(
                id="ChilleD/MultiArith",
                revision="144d44c3fb87c0b9097ac9593c789e716a282e3e",
                split="train+test",
                row=hub_row,
            ),
        )
    }
