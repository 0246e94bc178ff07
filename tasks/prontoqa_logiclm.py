"""ProntoQA in Logic-LM's form: 500 problems, true or false, a proof sentence a step (Pan et al., arXiv:2305.12295).

Other problems and another wording than `prontoqa`. Local file only, from
teacherpeterpan/Logic-LLM@d29f1e5e7203e8826cb9c41ba3003e43dc0b9d34 data/ProntoQA/dev.json; its options A) True and B)
False are left out of the question, the answer is the word.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("prontoqa_logiclm", config=TaskConfig)
class ProntoQaLogicLm(FileTask[TaskConfig]):
    kind = "text"
    labels = ("True", "False")
    sources: ClassVar = {"test": Source(file="prontoqa_logicllm_dev.jsonl.gz", num_rows=500)}
