"""Paired comparison of two runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from latbench.evaluation.compare import Difference, compare, render
from latbench.evaluation.statistics import mcnemar_exact, mean_interval


@pytest.fixture
def pair(make: Any, record: Any) -> Any:
    """Two runs on the questions q0, q1, ... from strings of 1 (correct) and 0."""

    def write(a: str, b: str) -> Any:
        runs = [[record(f"q{i}", mark == "1") for i, mark in enumerate(marks)] for marks in (a, b)]
        return make(runs[0], run="A"), make(runs[1][::-1], run="B")

    return write


def test_counts_and_test_on_the_same_questions_in_any_order(pair: Any) -> None:
    found = compare(*pair("1111100", "1100001"))
    assert (found.n, found.both, found.neither) == (7, 2, 1)
    assert [d.id for d in found.only_a] == ["q2", "q3", "q4"]
    assert found.only_b == (Difference(id="q6", gold="7", a="8", b="7"),)
    assert found.p_value == mcnemar_exact(3, 1) == 0.625
    assert found.difference == mean_interval([0, 0, 1, 1, 1, 0, -1])


def test_swapping_the_runs_swaps_the_result(pair: Any) -> None:
    a, b = pair("110", "011")
    there, back = compare(a, b), compare(b, a)
    assert there.p_value == back.p_value
    assert there.difference.value == -back.difference.value
    assert [d.id for d in there.only_a] == [d.id for d in back.only_b] == ["q0"]


def test_a_run_equals_itself(pair: Any) -> None:
    a, _ = pair("1010", "0000")
    found = compare(a, a)
    assert (found.p_value, found.only_a, found.only_b, found.both, found.neither) == (1.0, (), (), 2, 2)


def test_the_first_of_several_answers_is_compared(make: Any, record: Any) -> None:
    a = make([record("q", False, sample=0), record("q", True, sample=1)], run="A")
    b = make([record("q", True)], run="B")
    found = compare(a, b)
    assert [d.id for d in found.only_b] == ["q"]
    assert found.caveats == ("A has 2 answers a question; the first of each is compared",)
    assert f"mind: {found.caveats[0]}\n" in render(found)
    assert compare(b, b).caveats == ()


def test_verdicts_of_other_scorers_are_no_difference_of_runs_alone(make: Any, record: Any) -> None:
    ways = (
        {"scorer": "default", "run_on": "first"},
        {"scorer": "last_number", "run_on": "first"},
        {"scorer": "default"},
    )
    a, b, older = (
        make([record("q")], run=name, config={"eval": {"task": way}}) for name, way in zip("ABC", ways, strict=True)
    )
    (caveat,) = compare(a, b).caveats
    assert caveat.startswith("A was scored with task.scorer=default, B with last_number")
    assert compare(a, older).caveats == ()


def test_other_questions_are_refused_and_both_runs_named(make: Any, record: Any) -> None:
    a, b = make([record("q0")], run="A"), make([record("q0"), record("q1")], run="B")
    with pytest.raises(ValueError, match=r"A and .*B were not asked the same questions .1 of synth/test and 2 of"):
        compare(a, b)


def test_records_that_are_not_those_of_the_manifest_are_refused(make: Any, record: Any) -> None:
    whole, damaged = make([record("q0"), record("q1")], run="A"), make([record("q0"), record("q2")], run="B")
    damaged = replace(damaged, manifest=replace(damaged.manifest, questions_sha256=whole.manifest.questions_sha256))
    for pair in ((whole, damaged), (damaged, whole)):
        with pytest.raises(ValueError, match=r"has a first answer to question 'q1'.*; evaluate it again"):
            compare(*pair)


def test_incomplete_runs_are_refused(make: Any, record: Any) -> None:
    whole, half = make([record("q0")], run="A"), make([record("q0")], run="B", n=2)
    with pytest.raises(ValueError, match="B: incomplete"):
        compare(whole, half)


def test_text_shows_counts_and_the_questions_up_to_the_limit(pair: Any) -> None:
    found = compare(*pair("1" * 30 + "0", "0" * 30 + "1"))
    text = render(found, limit=5)
    assert "30 of 31 correct (96.8 %)" in text
    assert "only A 30, only B 1" in text
    assert "q4: gold '7', A '7', B '8'" in text
    assert "q5:" not in text
    assert "and 25 more" in text
    assert "q29:" in render(found, limit=None)


def test_text_can_be_encoded_whatever_the_model_wrote(make: Any, record: Any) -> None:
    a, b = (make([record("q", run == "B", extracted="\udc80\n", gold="\ud800")], run=run) for run in "AB")
    text = render(compare(a, b))
    assert text.encode()
    assert text.splitlines()[-1].startswith("  q: gold '\\ud800', A '\\udc80\\n'")
