"""GSM-Symbolic: 100 GSM8K test problems as templates, 50 draws of each (Mirzadeh et al., arXiv:2410.05229).

`task.variant`: `main` (5000 problems), `p1` and `p2` (one clause more, 5000; two more, 2500). From the Hub, or from a
file of rows {id, question, steps, answer}. Another group's draws of the same templates are `gsm_symbolic_variants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.data.solutions import gsm8k_solution
from latbench.registry import register_task
from latbench.task import STRICT, TaskConfig

NUM_ROWS: dict[str, int | None] = {"main": 5000, "p1": 5000, "p2": 2500}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GsmSymbolicConfig(TaskConfig):
    """Which templates."""

    variant: Literal["main", "p1", "p2"] = "main"
    """The published templates, with one clause more, or with two more."""


def hub_row(hub: Mapping[str, Any], index: int) -> Row:
    """Columns id (of the template), instance, question, answer (a solution with its `#### 18` line), original_id."""
    steps, answer = gsm8k_solution(hub["answer"])
    return {
        "id": f"gsm-symbolic-{hub['id']}-{hub['instance']}",
        "question": hub["question"],
        "steps": steps,
        "answer": answer,
        "template": hub["id"],
        "original_id": hub["original_id"],
    }


@register_task("gsm_symbolic", config=GsmSymbolicConfig)
class GsmSymbolic(FileTask[GsmSymbolicConfig]):
    kind = "number"
    hub: ClassVar[HubSource] = HubSource(
        id="apple/GSM-Symbolic",
        name="main",
        revision="93b5b3758d9d9841ffe81d6cd2ae2b030685b078",
        split="test",
        row=hub_row,
    )
    sources: ClassVar = {"test": Source(file="gsm_symbolic_main.jsonl.gz", num_rows=NUM_ROWS["main"], hub=hub)}

    def source(self, split: str) -> Source:
        """The variant's."""
        main, variant = self.sources[split], self.config.variant
        if variant == "main":
            return main
        hub = replace(self.hub, name=variant)
        return replace(main, file=f"gsm_symbolic_{variant}.jsonl.gz", num_rows=NUM_ROWS[variant], hub=hub)
