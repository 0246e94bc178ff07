"""ARC-Challenge: science questions of school exams with three to five choices (Clark et al., arXiv:1803.05457).

1119 train, 299 validation, 1172 test. Choices are labelled A, B, C ..., where the source has 1, 2, 3 too. No steps.
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
    """Columns id, question, choices (text and label, a list each), answerKey (A to E or 1 to 5)."""
    choices = hub["choices"]
    return {
        "id": f"arc-challenge-hub-{hub['id']}",
        "steps": [],
        **choice_fields(hub["question"], choices["text"], choices["label"].index(hub["answerKey"])),
        "source_label": hub["answerKey"],
    }


def source(split: str, file: str, num_rows: int) -> Source:
    """File and Hub split."""
    hub = HubSource(
        id="allenai/ai2_arc",
        name="ARC-Challenge",
        revision="210d026faf9955653af8916fad021475a3f00453",
        split=split,
        row=hub_row,
    )
    return Source(file=file, num_rows=num_rows, hub=hub)


@register_task("arc_challenge", config=TaskConfig)
class ArcChallenge(FileTask[TaskConfig]):
    kind = "choice"
    sources: ClassVar = {
        "train": source("train", "arc_challenge_train.jsonl.gz", 1119),
        "validation": source("validation", "arc_challenge_valid.jsonl.gz", 299),
        "test": source("test", "arc_challenge_test.jsonl.gz", 1172),
    }
