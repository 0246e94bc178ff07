"""GSM8K-Aug: 385,620 generated word problems with equation steps, the training set of Coconut, CODI and CoLaR.

Deng et al., arXiv:2311.01460. Train is the full set or nothing: the text file of the release, or its copy on
the Hub; the small `gsm8k_eq` never stands in for it. Validation and test are those of `gsm8k_eq`, in the same form.
The Hub copy is not pinned (no commit of it is known for certain); the fingerprint hashes its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import equation_line, equation_steps
from latbench.registry import register_task
from latbench.task import TaskConfig


def text_row(line: Mapping[str, Any], index: int) -> Row:
    """A line `question||<<a=b>> <<c=d>> #### answer`."""
    question, steps, answer = equation_line(line["text"])
    return {"id": f"gsm8k-aug-{index:06d}", "question": question, "steps": steps, "answer": answer}


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns question, cot (items joined by blanks) and answer."""
    return {
        "id": f"gsm8k-aug-hub-{index:06d}",
        "question": hub["question"].strip(),
        "steps": equation_steps(hub["cot"]),
        "answer": hub["answer"].strip().replace(",", ""),
    }


@register_task("gsm8k_aug", config=TaskConfig)
class Gsm8kAug(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "train": Source(
            file="gsm8k_aug_train.txt",
            num_rows=385_620,
            row=text_row,
            hub=HubSource(id="zen-E/GSM8k-Aug", split="train", row=hub_row),
            check_gold=False,  # written by a model: text to be learnt whatever it is, never a gold
        ),
        "validation": Source(file="gsm8k_aug_style_valid.jsonl", num_rows=500),
        "test": Source(file="gsm8k_aug_style_test.jsonl.gz", num_rows=1319),
    }
