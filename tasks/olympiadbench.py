"""OlympiadBench: 674 open-ended competition problems in English, text only (He et al., arXiv:2402.14008).

The set OE_TO_maths_en_COMP as
QwenLM/Qwen2.5-Math@a45202bd16f1ec06f433442dc1152d0074773465 evaluation/data/olympiadbench/test.jsonl has it, 675 rows;
local file only. Left out is olympiadbench-1965, whose answer is a sentence with conditions that nothing but a reader
can compare. Several values are one list, in any order, without the dollar signs of the source (one of which is astray:
`$221,$8$`). Its `unit` and `tolerance` are in the meta data and not read. olympiadbench-2713 is a MATH test problem,
olympiadbench-2890 a MATH train problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import Row
from latbench.registry import register_task
from latbench.task import TaskConfig


def local_row(row: Mapping[str, Any], index: int) -> Row | None:
    """Rows say in `multiple` whether the answer is several values."""
    if ", where " in row["answer"]:
        return None
    return {**row, "answer": row["answer"].replace("$", "")} if row["multiple"] else dict(row)


@register_task("olympiadbench", config=TaskConfig)
class OlympiadBench(FileTask[TaskConfig]):
    kind = "math"
    sources: ClassVar = {"test": Source(file="olympiadbench_math_en.jsonl.gz", num_rows=675, row=local_row)}
