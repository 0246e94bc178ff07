"""MAWPS: word problems of several older sets, an equation as step (Koncel-Kedziorski et al., NAACL 2016, N16-1136).

Divided as in LLM-Adapters (Hu et al., arXiv:2304.01933): 1898 train, 237 validation, 238 test. Local files only, from
AGI-Edgerunners/LLM-Adapters@816657208af4db747803f87ba40a4c71383fed7a dataset/mawps/{trainset,validset,testset}.json.
Train holds most of AddSub, SingleEq, SingleOp and MultiArith, part of ASDiv and 28 rows of its own test split: training
counts them, `train.drop_contaminated` leaves them out.

Fractions are written as the source's binary floats (1.8333333333333335 for 11/6), in questions too; they are kept as
they are, and the tolerance of kind `number` takes 11/6 and 1.8333.
"""

from __future__ import annotations

from typing import ClassVar

from latbench.data import FileTask, Source
from latbench.registry import register_task
from latbench.task import TaskConfig


@register_task("mawps", config=TaskConfig)
class Mawps(FileTask[TaskConfig]):
    kind = "number"
    overlaps = ("addsub", "singleeq", "singleop", "multiarith", "asdiv")
    sources: ClassVar = {
        "train": Source(file="mawps_train.jsonl.gz", num_rows=1898),
        "validation": Source(file="mawps_valid.jsonl", num_rows=237),
        "test": Source(file="mawps_test.jsonl", num_rows=238),
    }
