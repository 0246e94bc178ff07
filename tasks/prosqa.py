"""ProsQA: which of two classes follows from a graph of made-up is-a statements (Hao et al., arXiv:2412.06769).

The answer is a sentence ("Tom is a lempus."). Local files only; train is the published list `prosqa_train.json` of
facebookresearch/coconut (17,886 problems) and not part of the usual data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from latbench.data import FileTask, Source
from latbench.data.hub import Row
from latbench.registry import register_task
from latbench.task import TaskConfig

GRAPH_FIELDS = ("idx_to_symbol", "edges", "root", "target", "neg_target")


def published_row(published: Mapping[str, Any], index: int) -> Row:
    """Fields question, steps, answer and the graph: idx_to_symbol, edges, root, target, neg_target."""
    return {
        "id": f"prosqa-train-{index:05d}",
        "question": published["question"],
        "steps": published["steps"],
        "answer": published["answer"],
        **{field: published[field] for field in GRAPH_FIELDS},
    }


@register_task("prosqa", config=TaskConfig)
class ProsQa(FileTask[TaskConfig]):
    kind = "text"
    sources: ClassVar = {
        "train": Source(file="prosqa_train.json", num_rows=17_886, row=published_row),
        "validation": Source(file="prosqa_valid.jsonl.gz", num_rows=300),
        "test": Source(file="prosqa_test.jsonl.gz", num_rows=500),
    }
