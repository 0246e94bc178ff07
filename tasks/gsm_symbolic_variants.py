"""GSM-Symbolic templates in another group's draws: 1699 problems over 97 of the 100 templates, in English.

Read from the question and answer columns of the evaluation tables of
centre-for-humanities-computing/m-gsm-symbolic@326fef41bf17538427398194f5e258fcc0e86097 (20 draws of each template, 1940
rows). In 241 rows a step is rounded by more than one percent (`<<60/83=0>>`), so that the answer may be wrong; they are
left out. Not the published GSM-Symbolic, which is the task `gsm_symbolic`. `gsm8k_id` names the GSM8K test problem
behind a row: a model that was trained on GSM8K's test questions has seen the templates. Local file only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import Row
from latbench.registry import register_task
from latbench.task import TaskConfig


def exact_row(row: Mapping[str, Any], index: int) -> Row | None:
    """Rows say in `inexact_steps` whether a step is rounded."""
    return None if row["inexact_steps"] else dict(row)


@register_task("gsm_symbolic_variants", config=TaskConfig)
class GsmSymbolicVariants(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {"test": Source(file="gsm_symbolic_variants_en.jsonl.gz", num_rows=1940, row=exact_row)}
