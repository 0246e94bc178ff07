"""GSM8K: grade-school word problems with solution lines as steps (Cobbe et al., arXiv:2110.14168).

Steps keep the `<<a=b>>` calculator annotations of the data. Validation is the 500 problems that the GSM8K-Aug release
(Deng et al., arXiv:2311.01460) holds out of train; train is the other 6973. Which 500 is known from their file alone,
so both splits need it, also when the problems come from the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source, read_split, short_name
from latbench.data.hub import HubSource, Row, RowMapping
from latbench.data.solutions import gsm8k_solution
from latbench.registry import register_task
from latbench.task import Example, TaskConfig


def hub_row(split: str) -> RowMapping:
    """Columns question and answer, the latter a solution with its final `#### 18` line; order as in the local file."""

    def row(hub: Mapping[str, Any], index: int) -> Row:
        steps, answer = gsm8k_solution(hub["answer"])
        return {
            "id": f"gsm8k-{split}-{index:05d}",
            "question": hub["question"],
            "steps": steps,
            "answer": answer,
            "solution": hub["answer"],
        }

    return row


def source(split: str, num_rows: int) -> Source:
    """File and Hub split of one of the two published splits."""
    hub = HubSource(
        id="openai/gsm8k",
        name="main",
        revision="740312add88f781978c0658806c59bc2815b9866",
        split=split,
        row=hub_row(split),
    )
    return Source(file=f"gsm8k_{split}.jsonl.gz", num_rows=num_rows, hub=hub)


def held_out_row(row: Mapping[str, Any], index: int) -> Row:
    """The row, which must name the problem of GSM8K train that it is."""
    return {**row, "gsm8k_id": row["gsm8k_id"]}


HELD_OUT = Source(file="gsm8k_aug_style_valid.jsonl", num_rows=500, row=held_out_row)


@register_task("gsm8k", config=TaskConfig)
class Gsm8k(FileTask[TaskConfig]):
    kind = "number"
    sources: ClassVar = {
        "train": source("train", 7473),
        "validation": source("train", 7473),
        "test": source("test", 1319),
    }

    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        if split == "test":
            return examples, ""
        held_out = read_split(HELD_OUT, self.kind, f"task {self.name!r}, split {split!r}")
        ids = {example.meta["gsm8k_id"] for example in held_out.examples}
        validation = split == "validation"
        kept = [example for example in examples if (example.id in ids) == validation]
        return kept, f"{'only' if validation else 'without'} {short_name(held_out.fingerprint)}"
