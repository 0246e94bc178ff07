"""Metrics against values worked by hand."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from latbench.evaluation.metrics import compression, maj_at_k, pass_at_k, summarise
from latbench.evaluation.statistics import Interval, wilson_interval


def test_counts_rates_and_costs_of_a_small_run(make: Any, record: Any) -> None:
    summary = summarise(
        make(
            [
                record("a", num_latents=4, num_reasoning_tokens=2, num_answer_tokens=3, decode_steps=10),
                record("b", False, num_latents=2, num_answer_tokens=5, decode_steps=8, stop_reason="length"),
                record(
                    "c", False, status="no_answer", extracted=None, num_latents=6, decode_steps=7, stop_reason="stop"
                ),
                record("d", False, status="timeout", num_latents=0, num_answer_tokens=1, decode_steps=3),
            ]
        )
    )
    assert (summary.n, summary.samples) == (4, 1)
    assert summary.accuracy == summary.pass_at[1] == summary.maj_at_k == wilson_interval(1, 4)
    assert summary.chain_length is not None
    assert summary.chain_length.value == (6 + 2 + 6 + 0) / 4
    assert summary.answer_tokens == (3 + 5 + 3 + 1) / 4
    assert summary.decode_steps == (10 + 8 + 7 + 3) / 4
    assert (summary.no_answer, summary.timeout, summary.truncated, summary.prompt_too_long) == (0.25, 0.25, 0.25, 0)
    assert summary.answers_per_second == 2.0
    assert (summary.train_flops, summary.train_passes) == (2e12, 1.5)
    assert summary.gold_lengths == {}


def test_chains_of_unknown_length_are_left_out_of_the_mean_and_counted(make: Any, record: Any) -> None:
    records = [
        record("a", num_latents=0, num_reasoning_tokens=6),
        record("b", num_latents=0, num_reasoning_tokens=None),
        record("c", num_latents=0, num_reasoning_tokens=10),
        record("d", num_latents=0, num_reasoning_tokens=0),
    ]
    summary = summarise(make(records, run="some"))
    assert summary.lengths == {"a": 6, "c": 10, "d": 0}
    assert summary.chain_length is not None
    assert summary.chain_length.value == pytest.approx(16 / 3)
    assert summary.unknown_length == 0.25
    none = summarise(make([record("b", num_reasoning_tokens=None)], run="none"))
    assert (none.chain_length, none.unknown_length, none.lengths) == (None, 1.0, {})


def test_accuracy_is_the_mean_over_samples_then_questions_which_are_the_trials(make: Any, record: Any) -> None:
    solved = {"a": (True, True), "b": (True, False), "c": (False, False)}
    summary = summarise(
        make([record(id, ok, sample=i) for id, answers in solved.items() for i, ok in enumerate(answers)])
    )
    assert (summary.n, summary.samples) == (3, 2)
    assert summary.accuracy == wilson_interval(1.5, 3)
    assert summary.pass_at[2].value == pytest.approx(2 / 3)
    assert summary.maj_at_k.value == pytest.approx(0.5)  # b is a tie


def test_pass_at_k_is_shown_for_powers_of_two_and_all_samples(make: Any, record: Any) -> None:
    solved = {"a": (True, False, False, False, False, True), "b": (False,) * 6}
    summary = summarise(
        make([record(id, ok, sample=i) for id, answers in solved.items() for i, ok in enumerate(answers)])
    )
    assert summary.pass_at[1].value == pytest.approx(summary.accuracy.value)
    expected = {1: 1 / 6, 2: (1 - 6 / 15) / 2, 4: (1 - 1 / 15) / 2, 6: 1 / 2}
    assert {k: one.value for k, one in summary.pass_at.items()} == pytest.approx(expected)


def test_a_question_beyond_the_context_counts_as_wrong_but_not_as_short(make: Any, record: Any) -> None:
    skipped = {"status": "no_answer", "extracted": None, "stop_reason": "prompt_too_long", "num_latents": 0}
    long = record("b", False, num_answer_tokens=0, decode_steps=0, **skipped)
    summary = summarise(make([record("a", gold_chain_length=8), long], run="one"))
    assert summary.accuracy.value == 0.5
    assert summary.prompt_too_long == 0.5
    assert summary.chain_length is not None
    assert (summary.chain_length.value, summary.decode_steps, summary.gold_lengths) == (4, 9, {"a": 8})
    nothing = summarise(make([long], run="two"))
    assert (nothing.chain_length, nothing.decode_steps, nothing.accuracy.value) == (None, None, 0)


def test_cost_is_missing_where_the_manifest_has_none(make: Any, record: Any) -> None:
    summary = summarise(make([record("a")], train={}, evaluation={}))
    assert (summary.answers_per_second, summary.train_flops, summary.train_passes) == (None, None, None)


def test_the_order_of_records_changes_nothing(make: Any, record: Any) -> None:
    records = [record(id, id != "b", sample=sample, num_latents=3 * sample) for id in "abc" for sample in (0, 1)]
    forward, backward = summarise(make(records, run="f")), summarise(make(records[::-1], run="b"))
    for name in ("accuracy", "chain_length", "maj_at_k", "test_set", "decode_steps"):
        assert getattr(forward, name) == getattr(backward, name)


def test_test_set_depends_on_the_questions_alone(make: Any, record: Any) -> None:
    same = [summarise(make([record("a"), record("b", ok)], run=f"{ok}")).test_set for ok in (True, False)]
    other_ids = summarise(make([record("a"), record("c")], run="ids")).test_set
    other_gold = summarise(make([record("a"), record("b", gold="9")], run="gold")).test_set
    assert same[0] == same[1]
    assert len({same[0], other_ids, other_gold}) == 3


@pytest.mark.parametrize(
    ("ids", "changes", "reason"),
    [
        (["a", "a", "b"], {}, "recorded more than once .first: id 'a', sample 0"),
        (["a", "b"], {"n": 3}, "incomplete, 2 of 3"),
        (["a", "b"], {"complete": False}, "incomplete, 2 of 2"),
        ([], {"n": 0}, "0 records do not fit"),
        (["a", "b"], {"n": 1}, "2 records do not fit the 1"),
        (["a"], {"data": {}}, "no fingerprint of synth/test"),
    ],
)
def test_what_cannot_be_counted_is_refused(make: Any, record: Any, ids: list[str], changes: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        summarise(make([record(id) for id in ids], **changes))


def test_questions_with_unequal_numbers_of_answers_are_refused(make: Any, record: Any) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        summarise(make([record("a"), record("a", sample=1), record("b")]))


@pytest.mark.parametrize("num_samples", [1, 4, 6])
def test_pass_at_k_equals_the_share_of_subsets_with_a_correct_answer(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        answers = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(answers, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_refuses_more_answers_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be in 1\.\.4"):
        pass_at_k(4, 2, k)


@pytest.mark.parametrize(
    ("answers", "credit"),
    [
        ("7 7 8", 1),
        ("7 8 8", 0),
        ("7 8", 0.5),
        ("7 8 9", 1 / 3),
        ("7 - - -", 1),  # missing answers do not vote
        ("- -", 0),
        ("7 7.0 8 8 9", 0.5),  # differently written correct answers are one candidate
    ],
)
def test_majority_vote(record: Any, answers: str, credit: float) -> None:
    records = [
        record("a", False, extracted=None, status="no_answer", sample=i)
        if answer == "-"
        else record("a", answer.startswith("7"), extracted=answer, sample=i)
        for i, answer in enumerate(answers.split())
    ]
    assert maj_at_k(records) == credit


def test_compression_is_a_dash_without_reference_or_reasoning() -> None:
    assert compression({}, {"a": 4, "b": 2}) is None
    assert compression({"a": 0, "b": 0}, {"a": 4, "b": 2}) is None
    assert compression({"a": 12, "b": 8}, {"a": 0, "b": 0}) is None
    assert compression({"a": 12, "b": 8}, {}) is None


def test_compression_is_paired_by_question() -> None:
    assert compression({"b": 8, "a": 12, "c": 4}, {"a": 6, "b": 4}) == Interval(2, 2, 2)  # halves each
    found = compression({"a": 12, "b": 8}, {"a": 4, "b": 4})
    assert found is not None
    assert found.value == 2.5
    assert found.low == 0  # two questions: 12.7 deviations of the mean
    assert found.high == pytest.approx(2.5 + 12.7062047 * 2 / 4)
