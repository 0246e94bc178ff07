"""StrategyQA: yes-or-no questions with implicit steps, facts as steps (Geva et al., arXiv:2101.02235).

The authors' own division of the 2290 questions with answers: 2061 train, and 229 that they call dev and that are `test`
here; the official test set has no answers. Local files only, from
eladsegal/strategyqa@1ba1e97452e189569357876f2854b01357ffbe37 data/strategyqa: the copies on the Hub are divided
otherwise.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("strategyqa", config=TaskConfig)
class StrategyQa(FileTask[TaskConfig]):
    kind = "text"
    labels = ("Yes", "No")
    sources: ClassVar = {
        "train": Source(file="strategyqa_train.jsonl.gz", num_rows=2061),
        "test": Source(file="strategyqa_dev.jsonl", num_rows=229),
    }
