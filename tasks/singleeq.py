"""SingleEq: 508 word problems that one equation solves (Koncel-Kedziorski et al., TACL 2015, Q15-1042).

Steps hold the reference equation. Local file only, from
AGI-Edgerunners/LLM-Adapters@816657208af4db747803f87ba40a4c71383fed7a dataset/SingleEq/SingleEq.json. 436 of the
questions are in the train split of MAWPS and 127 in AddSub.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("singleeq", config=TaskConfig)
class SingleEq(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {"test": Source(file="singleeq.jsonl", num_rows=508)}
