"""ProntoQA in Coconut's form: is a statement true under made-up is-a rules (Saparov and He, arXiv:2210.01240).

Five hops. 9000 train, 200 validation, 800 test, a fact and its conclusion a step (Hao et al., arXiv:2412.06769). Local
files only: the generator asaparov/prontoqa@f0145b867b3c106285ec9ea1941a3f6eb7c6162d with the command of Coconut's
README makes all three, its preprocessing joins two proof sentences to a step; the output equals the published
validation and test rows.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("prontoqa", config=TaskConfig)
class ProntoQa(FileTask[TaskConfig]):
    kind = "text"
    labels = ("True", "False")
    sources: ClassVar = {
        "train": Source(file="prontoqa_train.jsonl.gz", num_rows=9000),
        "validation": Source(file="prontoqa_valid.jsonl.gz", num_rows=200),
        "test": Source(file="prontoqa_test.jsonl.gz", num_rows=800),
    }
