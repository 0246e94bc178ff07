"""Figures of results/pretrained.md that no table of latbench holds: counted in the committed records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import pytest

from latbench.answers.formulas import constant
from latbench.evaluation.records import Record, read_evaluation
from tests.report.findings import RESULTS

TEXT = " ".join((RESULTS / "pretrained.md").read_text(encoding="utf-8").split())
RUN = "gsm8k_eq-cot-smollm2_135m_instruct_q4_1-bb27bd0c-s0"
EQUATION = re.compile(r"<<([^=<>]+)=([^=<>]+)>>")


def answers(task: str) -> Sequence[Record]:
    records = read_evaluation(RESULTS / task / "cot" / RUN).records
    assert len(records) == 300
    return records


def equations(record: Record) -> list[tuple[str, str]]:
    """Both sides of each step that is one equation."""
    return EQUATION.findall(record.reasoning or "")


def is_false(left: str, right: str) -> bool:
    """Whether the sides are numbers that differ by more than a rounding."""
    one, other = constant(left), constant(right)
    return one is not None and other is not None and abs(one - other) > max(abs(other), Fraction(1)) / 100


def is_first_right(record: Record) -> bool:
    found = equations(record)
    return bool(found) and constant(found[0][1]) == constant(record.gold) is not None


def share(flags: Sequence[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.0f} %"


def test_chains_have_a_second_step_where_the_first_was_enough() -> None:
    single = {task: sum(len(equations(record)) == 1 for record in answers(task)) for task in ("svamp", "asdiv")}
    assert f"of the answers to SVAMP {single['svamp']} of 300 and to ASDiv {single['asdiv']}," in TEXT
    first = {task: share([is_first_right(record) for record in answers(task)]) for task in ("svamp", "asdiv")}
    assert f"gives the right answer to {first['svamp']} of SVAMP and {first['asdiv']} of ASDiv" in TEXT


@pytest.mark.parametrize(
    ("task", "name"), [("gsm8k", "GSM8K"), ("svamp", "SVAMP"), ("multiarith", "MultiArith"), ("asdiv", "ASDiv")]
)
def test_wrong_chains_hold_false_equations(task: str, name: str) -> None:
    wrong = [record for record in answers(task) if record.status != "correct"]
    found = share([any(is_false(*sides) for sides in equations(record)) for record in wrong])
    assert f"{found} ({name})" in TEXT
