"""The published numbers that a page of docs/methods shows, from results/reported.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from latbench.report.reported import Reported, read_reported

ROOT = Path(__file__).parents[2]
ALSO = {
    "cot": ("grpo",),
    "latent_sft": ("latent_grpo", "soft_grpo"),
    "soft_thinking": ("mixture_of_inputs",),
    "sim_cot_codi": ("sim_cot",),
}
"""Names in the file that belong to the page of another method."""
HEADER = (
    "| source | setting | backbone | trained on | accuracy, %, or what is named | length | read from |\n|"
    + " --- |" * 7
)
LENGTHS = ("#L", "tokens")


def published(method: str) -> str:
    """A table with one line for each setting of a source, in the order of the file; "" where nothing is published."""
    groups: dict[tuple[str, ...], list[Reported]] = {}
    for row in _of(method):
        key = (row.source, row.method, row.variant, row.backbone, row.trained_on, row.quality)
        groups.setdefault(key, []).append(row)
    lines = [_line(method, rows) for rows in groups.values()]
    return "\n".join([HEADER, *lines]) if lines else ""


def _of(method: str) -> Iterator[Reported]:
    names = (method, *ALSO.get(method, ()))
    for row in read_reported(ROOT / "results" / "reported.csv"):
        on_codi = row.method == "sim_cot" and "codi" in row.variant
        if row.method in names and (method != "sim_cot" or not on_codi) and (method != "sim_cot_codi" or on_codi):
            yield row


def _line(method: str, rows: Sequence[Reported]) -> str:
    first = rows[0]
    other = "" if first.method in (method, "sim_cot") else first.method.replace("_", " ")
    setting = ": ".join(filter(None, (other, first.variant)))
    accuracy = "; ".join(_number(row) for row in rows if row.metric not in LENGTHS)
    length = "; ".join(_number(row) for row in rows if row.metric in LENGTHS)
    cells = (first.source, setting, first.backbone, first.trained_on, accuracy, length, first.quality)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(row: Reported) -> str:
    name = row.task if row.metric in ("accuracy", "#L") else f"{row.task} {row.metric}"
    return f"{name} {row.value}" + (f" ± {row.spread}" if row.spread else "")
