"""Multiplication of two numbers of N digits, with the partial products as steps (Deng et al., arXiv:2405.14838).

    question  7 6 9 2 * 1 6 3 6                     2967 * 6361: digits apart, units first
    steps     7 6 9 2 0 | 0 2 0 8 7 1 ( 7 8 9 0 8 1 ) | ...   each but the first and the last with the sum so far
    answer    7 8 0 3 7 8 8 1                       18873087

`task.digits` chooses N. Local files only: validation and test are 1000 problems each, from
da03/Internalize_CoT_Step_by_Step@c2e3891d8d577beeaff03fa3b076d1e4db96cfe8 data/N_by_N_mult/{valid,test_bigbench}.txt;
train is the release's own `train.txt` under the name mult_NxN_train.txt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from latbench.data import FileTask, Source
from latbench.data.hub import Row
from latbench.registry import register_task
from latbench.task import STRICT, TaskConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiplicationConfig(TaskConfig):
    """How long the numbers are."""

    digits: Literal[4, 5, 7, 9, 11] = 4
    """Digits of each factor."""


def text_row(line: Mapping[str, Any], index: int) -> Row:
    """A line `7 6 9 2 * 1 6 3 6||7 6 9 2 0 + 0 2 0 8 7 1 ( 7 8 9 0 8 1 ) + ... #### 7 8 0 3 7 8 8 1`."""
    question, bars, rest = line["text"].partition("||")
    chain, marker, answer = rest.partition("####")
    if not bars or not marker:
        raise ValueError("the line is not `question||steps #### answer`")
    return {
        "id": f"mult-train-{index:06d}",
        "question": question.strip(),
        "steps": [step.strip() for step in chain.split(" + ") if step.strip()],
        "answer": answer.strip(),
    }


@register_task("multiplication", config=MultiplicationConfig)
class Multiplication(FileTask[MultiplicationConfig]):
    kind = "text"
    sources: ClassVar = {
        "train": Source(file="mult_4x4_train.txt", row=text_row),
        "validation": Source(file="mult_4x4_valid.jsonl.gz", num_rows=1000),
        "test": Source(file="mult_4x4_test.jsonl.gz", num_rows=1000),
    }

    def source(self, split: str) -> Source:
        """Of the chosen length."""
        four, n = self.sources[split], self.config.digits
        return replace(four, file=four.file.replace("4x4", f"{n}x{n}"))
