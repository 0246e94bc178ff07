"""GSM-Hard: the GSM8K test problems with large numbers in place of the small ones (Gao et al., arXiv:2211.10435).

The answers were computed by generated programs and never all checked (negative and fractional counts occur), and 329
questions are unchanged: report it apart from GSM8K.
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
    """Columns input, code (the program that gave the answer) and target (a float); order as in the local file."""
    return {
        "id": f"gsm-hard-{index:04d}",
        "question": hub["input"],
        "steps": [],
        "answer": number_text(hub["target"]),
        "code": hub["code"],
    }


@register_task("gsm_hard", config=TaskConfig)
class GsmHard(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="gsm_hard.jsonl",
            num_rows=1319,
            hub=HubSource(
                id="reasoning-machines/gsm-hard",
                revision="960448f73503112d4226baeb8eb41d3fb5ae2506",
                split="train",  # the only one
                row=hub_row,
            ),
        )
    }
