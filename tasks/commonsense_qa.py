"""CommonsenseQA: everyday questions with five choices (Talmor et al., arXiv:1811.00937).

Train has 9741 rows; `test` is the official development set (1221), since the official test set has no answers. No
steps. In 122 and 24 rows two choices have the same text (in 42 and 6 of them the right one); only the letter of the
reference counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.choices import choice_fields
from latbench.data.hub import HubSource, Row
from latbench.registry import register_task
from latbench.task import TaskConfig


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns id, question, question_concept, choices (label and text, a list each), answerKey."""
    choices = hub["choices"]
    return {
        "id": f"csqa-hub-{hub['id']}",
        "steps": [],
        **choice_fields(hub["question"], choices["text"], choices["label"].index(hub["answerKey"])),
        "concept": hub["question_concept"],
    }


def source(split: str, file: str, num_rows: int) -> Source:
    """File and Hub split."""
    hub = HubSource(
        id="tau/commonsense_qa", revision="94630fe30dad47192a8546eb75f094926d47e155", split=split, row=hub_row
    )
    return Source(file=file, num_rows=num_rows, hub=hub)


@register_task("commonsense_qa", config=TaskConfig)
class CommonsenseQa(FileTask[TaskConfig]):
    kind = "choice"
    sources: ClassVar = {
        "train": source("train", "csqa_train.jsonl.gz", 9741),
        "test": source("validation", "csqa_valid.jsonl.gz", 1221),
    }
