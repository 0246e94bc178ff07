"""GSM-Plus: the GSM8K test problems, each changed in eight ways (Li et al., arXiv:2402.19255).

10,552 rows, `testmini` has 2400 of them. Rows without a number as answer are left out: of the change `critical
thinking`, which takes away a quantity that the question needs, the answer is the word None. `perturbation` names the
change. From the Hub, or from a file of rows {id, question, steps, answer}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.answers.scoring import gold_fault
from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row, RowMapping
from latbench.data.solutions import number_text
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(split: str) -> RowMapping:
    """Columns question, solution, answer, perturbation_type, seed_question; eight rows in turn change one problem."""

    def row(hub: Mapping[str, Any], index: int) -> Row | None:
        answer = number_text(hub["answer"])
        if gold_fault(answer, "number"):
            return None
        return {
            "id": f"gsm-plus-{split}-{index:05d}",
            "question": hub["question"],
            "steps": [line.strip() for line in hub["solution"].split("\n") if line.strip()],
            "answer": answer,
            "perturbation": hub["perturbation_type"],
            "seed_question": hub["seed_question"],
        }

    return row


def source(split: str, num_rows: int) -> Source:
    """File and Hub split."""
    hub = HubSource(
        id="qintongli/GSM-Plus",
        revision="3b708db57b96a16e8e3368ed2956990c0809440e",
        split=split,
        row=hub_row(split),
    )
    return Source(file=f"gsm_plus_{split}.jsonl.gz", num_rows=num_rows, hub=hub)


@register_task("gsm_plus", config=TaskConfig)
class GsmPlus(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {"test": source("test", 10_552), "testmini": source("testmini", 2400)}
