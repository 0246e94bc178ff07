"""ASDiv: the 2084 of its 2305 problems that have one number as answer (Miao et al., arXiv:2106.15772).

The other 221 ask for a name, a time or a ratio, or for several numbers; they are left out, so n differs from papers
that score 2305 or the 2215 of another filter. Steps hold the reference formula. The Hub calls the only split
`validation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig

ONE_NUMBER = re.compile(r"(-?[\d,]*\.?\d+)\s*(?:\([^()]*\))?")  # `9 (apples)`


def local_row(row: Mapping[str, Any], index: int) -> Row | None:
    """Rows hold in `answer_source` the whole answer with its units, and in `answer` its first number."""
    return dict(row) if ONE_NUMBER.fullmatch(row["answer_source"].strip()) else None


def hub_row(hub: Mapping[str, Any], index: int) -> Row | None:
    """Columns body, question, solution_type, answer (`9 (apples)`), formula."""
    answer = ONE_NUMBER.fullmatch(hub["answer"].strip())
    if answer is None:
        return None
    return {
        "id": f"asdiv-hub-{index:04d}",
        "question": f"{hub['body'].strip()} {hub['question'].strip()}",
        "steps": [hub["formula"].strip()],
        "answer": number_text(answer[1]),
        "answer_source": hub["answer"],
        "type": hub["solution_type"],
    }


@register_task("asdiv", config=TaskConfig)
class AsDiv(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "test": Source(
            file="asdiv.jsonl.gz",
            num_rows=2305,
            row=local_row,
            hub=HubSource(
                id="EleutherAI/asdiv",
                name="asdiv",
                revision="8f95807222d87b4c688c3c22a6ba2801e1fa03e2",
                split="validation",
                row=hub_row,
            ),
        )
    }
