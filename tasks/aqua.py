"""AQuA: algebraic word problems with five choices and a written rationale (Ling et al., arXiv:1705.04146).

Steps are the lines of the rationale, which often end with the letter. 97,467 train, 254 validation, 254 test. In 8 rows
of validation and test two choices have the same text; only the letter of the reference counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.choices import choice_fields
from latbench.data.hub import HubSource, Row, RowMapping
from latbench.registry import register_task
from latbench.task import TaskConfig

LABEL = re.compile(r"\s*([A-E])\s*\)\s*")


def hub_row(split: str) -> RowMapping:
    """Columns question, options (`A)21`), rationale, correct (a letter)."""

    def row(hub: Mapping[str, Any], index: int) -> Row:
        return {
            "id": f"aqua-{split}-hub-{index:05d}",
            "steps": [line.strip() for line in hub["rationale"].split("\n") if line.strip()],
            **choice_fields(
                hub["question"].strip(),
                [LABEL.sub("", option, count=1).strip() for option in hub["options"]],
                "ABCDE".find(hub["correct"]),
            ),
        }

    return row


def source(split: str, file: str, num_rows: int) -> Source:
    """File and Hub split."""
    hub = HubSource(
        id="deepmind/aqua_rat",
        name="raw",
        revision="33301c6a050c96af81f63cad5562cb5363e88971",
        split=split,
        row=hub_row(split),
    )
    return Source(file=file, num_rows=num_rows, hub=hub)


@register_task("aqua", config=TaskConfig)
class Aqua(FileTask[TaskConfig]):
    kind = "choice"
    sources: ClassVar = {
        "train": source("train", "aqua_train.jsonl.gz", 97_467),
        "validation": source("validation", "aqua_valid.jsonl.gz", 254),
        "test": source("test", "aqua_test.jsonl.gz", 254),
    }
