"""AddSub: 395 word problems of addition and subtraction (Hosseini et al., EMNLP 2014, D14-1058).

The text is tokenised ("beach . she"). Steps hold the reference equation. Local file only, from
AGI-Edgerunners/LLM-Adapters@816657208af4db747803f87ba40a4c71383fed7a dataset/AddSub/AddSub.json. 327 of the questions
are in the train split of MAWPS and 126 in SingleEq.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("addsub", config=TaskConfig)
class AddSub(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {"test": Source(file="addsub.jsonl", num_rows=395)}
