"""What is known against an evaluation, in a few words for tables and as a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from latbench.evaluation.metrics import caveats, summarise

EXACT: dict[str, Any] = {"model": {"dtype": "float32"}}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"contaminated": 12}, ["contaminated (12 rows)"]),
        ({"contaminated": 0}, []),
        ({"config": {"model": {"dtype": "bfloat16"}}}, ["mixed precision"]),
        ({"config": {**EXACT, "train": {"precision": "bfloat16"}}}, ["mixed precision"]),
        ({"config": {**EXACT, "train": {"precision": "bfloat16"}}, "train_data": "none"}, []),
        ({"config": {**EXACT, "train": {"precision": "bfloat16"}}, "train_data": "none, model sha256=c0ffee"}, []),
        ({"config": {"model": {"dtype": "bfloat16"}}, "train_data": "none"}, ["mixed precision"]),
        ({"config": {**EXACT, "start": {"train": {"precision": "bfloat16"}}}}, ["mixed precision"]),
    ],
)
def test_a_manifest_tells(make: Any, record: Any, changes: dict[str, Any], names: list[str]) -> None:
    found = caveats(summarise(make([record("a")], **{"config": EXACT, **changes})))
    assert [caveat.name for caveat in found] == names
    assert all(caveat.share is None and caveat.sentence for caveat in found)


def test_rates_of_failed_answers_are_told_with_their_share(make: Any, record: Any) -> None:
    answers = [
        record("a", stop_reason="length"),
        record("b", status="no_answer", extracted=None),
        record("c", status="timeout"),
        record("d"),
    ]
    found = {caveat.name: caveat for caveat in caveats(summarise(make(answers, config=EXACT)))}
    assert {name: caveat.share for name, caveat in found.items()} == {
        "no answer": 0.25, "truncated": 0.25, "timeout": 0.25,
    }  # fmt: skip
    assert found["truncated"].sentence == "25.0 % of its answers end at a cap"
