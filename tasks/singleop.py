"""SingleOp: 562 word problems of one operation (Roy et al., TACL 2015, Q15-1001), as MAWPS has them.

31 questions repeat an earlier one. Local file only, from QwenLM/Qwen2.5-Math@a45202bd16f1ec06f433442dc1152d0074773465
evaluation/data/mawps/singleop.jsonl. 461 of the questions are in the train split of MAWPS.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("singleop", config=TaskConfig)
class SingleOp(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {"test": Source(file="singleop.jsonl", num_rows=562)}
