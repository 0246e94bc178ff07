"""synth: right answers, valid orders, disjoint splits, uniform answers, the same rows every time."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import islice, permutations
from typing import Any

import pytest
from pydantic import ValidationError

import tasks.synth as synth
from latbench.task import Example
from tasks.synth import Quantity, Synth, SynthConfig, canonical, num_paths, paths, ready

STEP = re.compile(r"<<(?:(n\d+)=)?(\d+)([-+*])(\d+)=(\d+)>>")
SENTENCE = re.compile(r"(n\d+)=(\w+)([-+*])(\w+);")
HARD: dict[str, Any] = {"shuffled": True, "random_names": True, "distractors": 3}


def load(split: str = "test", **settings: Any) -> list[Example]:
    return Synth(SynthConfig(**{"num_train": 300, "num_validation": 100, "num_test": 300} | settings)).load(split)


def definitions(question: str) -> dict[str, tuple[str, str, str]]:
    return {name: (left, op, right) for name, left, op, right in SENTENCE.findall(question)}


def apply(op: str, a: int, b: int, modulus: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[op] % modulus


def solve(question: str) -> int:
    """The asked quantity, from the text alone."""
    modulus = int(question.split()[1].rstrip(":"))
    sentences = definitions(question)

    def value(word: str) -> int:
        if word not in sentences:
            return int(word)
        left, op, right = sentences[word]
        return apply(op, value(left), value(right), modulus)

    return value(question.split()[-1].rstrip("?"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "canonical"},
        {"step_names": False},
        HARD,
        {"modulus": 97, "max_ops": 8},
        {"modulus": 2, "min_ops": 5, "max_ops": 6},
    ],
)
def test_answer_follows_from_the_text_and_from_the_steps(settings: dict[str, Any]) -> None:
    modulus = settings.get("modulus", 10)
    for example in load(**settings):
        assert int(example.answer) == solve(example.question)
        for step in example.steps:
            match = STEP.fullmatch(step)
            assert match is not None
            name, a, op, b, value = match.groups()
            assert int(value) == apply(op, int(a), int(b), modulus)
            assert (name is not None) == settings.get("step_names", True)
            assert name is None or definitions(example.question)[name][1] == op
        assert example.steps[-1].endswith(f"={example.answer}>>")


@pytest.mark.parametrize("settings", [{}, HARD])
def test_meta_names_the_steps_and_what_they_need(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        meta = json.loads(json.dumps(dict(example.meta)))
        assert meta == example.meta
        sentences = definitions(example.question)
        assert len(sentences) == meta["level"] + settings.get("distractors", 0)
        for name, step, needs in zip(meta["names"], meta["steps"], meta["needs"], strict=True):
            left, op, right = sentences[name]
            assert op in step
            assert {meta["names"][i] for i in needs} == {word for word in (left, right) if word.startswith("n")}
        assert example.steps == tuple(meta["steps"][i] for i in meta["order"])


def test_every_quantity_in_meta_is_needed_by_the_answer() -> None:
    for example in load(**HARD):
        needed = {j for required in example.meta["needs"] for j in required}
        assert needed == set(range(example.meta["level"] - 1))


def test_paths_are_exactly_the_valid_orders() -> None:
    for example in load(num_test=60):
        steps, needs = example.meta["steps"], example.meta["needs"]
        brute = {
            tuple(steps[i] for i in order)
            for order in permutations(range(len(steps)))
            if all(order.index(j) < order.index(i) for i, required in enumerate(needs) for j in required)
        }
        found = paths(example)
        assert len(found) == len(set(found))
        assert set(found) == brute
        assert example.steps in brute


def test_past_the_cap_paths_are_distinct_valid_and_the_same_again() -> None:
    example = max(load(min_ops=8, max_ops=8, branch=0.9, num_test=30), key=num_paths)
    assert num_paths(example) > 100
    drawn = paths(example, cap=100)
    assert len(drawn) == len(set(drawn)) == 100
    assert set(drawn) <= set(paths(example, cap=num_paths(example)))
    assert drawn == paths(example, cap=100)
    assert drawn != paths(example, cap=100, seed=1)


def test_ready_walks_through_any_chain() -> None:
    for example in load(num_test=60):
        done: list[int] = []
        for index in example.meta["order"]:
            assert index in ready(example, done)
            done.append(index)
        assert ready(example, done) == []


def test_training_chains_use_every_valid_order_about_equally() -> None:
    ranks: dict[int, Counter[int]] = {2: Counter(), 3: Counter()}
    for example in load("train", num_train=3000, min_ops=4, max_ops=4):
        needs = tuple(map(tuple, example.meta["needs"]))
        orders = [list(synth.order_of(needs, rank)) for rank in range(num_paths(example))]
        if len(orders) > 1:
            ranks[len(orders)][orders.index(example.meta["order"])] += 1
    for count, found in ranks.items():
        assert min(found[rank] for rank in range(count)) > 0.9 * found.total() / count


def test_canonical_order_is_the_order_of_definition() -> None:
    for example in load(order="canonical"):
        assert example.meta["order"] == list(range(example.meta["level"]))


def test_wording_and_order_leave_the_problems_as_they_are() -> None:
    plain, hard = load(step_names=False), load(step_names=False, order="canonical", **HARD)
    assert [example.meta["steps"] for example in plain] == [example.meta["steps"] for example in hard]
    assert [example.question for example in plain] != [example.question for example in hard]


def test_the_same_settings_give_the_same_rows_and_a_longer_set_starts_with_a_shorter_one() -> None:
    assert load("train") == load("train")
    assert [dict(example.meta) for example in load(**HARD)] == [dict(example.meta) for example in load(**HARD)]
    assert load("train", num_train=500)[:300] == load("train")
    assert load("train", seed=1) != load("train")


def test_fingerprint_follows_the_rows() -> None:
    task = Synth(SynthConfig(num_test=50))
    assert task.fingerprint("test") == Synth(SynthConfig(num_test=50)).fingerprint("test")
    assert task.fingerprint("test").num_examples == 50
    digests = {Synth(SynthConfig(num_test=50, **other)).fingerprint("test").sha256 for other in ({}, HARD, {"seed": 1})}
    assert len(digests) == 3
    assert "3 distractors" in Synth(SynthConfig(distractors=3)).fingerprint("test").source


def forms(split: str, **settings: Any) -> list[str]:
    """Canonical forms recomputed from the texts."""
    found = []
    for example in load(split, **settings):
        sentences = definitions(example.question)

        def form(word: str, sentences: dict[str, tuple[str, str, str]] = sentences) -> str:
            if word not in sentences:
                return word
            left, op, right = sentences[word]
            operands = [form(left), form(right)]
            return f"({op}".join(operands if op == "-" else sorted(operands)) + ")"

        found.append(form(example.question.split()[-1].rstrip("?")))
    return found


@pytest.mark.parametrize("settings", [{"min_ops": 2, "max_ops": 3, "num_train": 5000, "num_test": 500}, HARD])
def test_splits_share_neither_graph_nor_text(settings: dict[str, Any]) -> None:
    by_split = {split: forms(split, **settings) for split in Synth.splits}
    texts = {split: {example.question for example in load(split, **settings)} for split in Synth.splits}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not set(by_split[one]) & set(by_split[other])
        assert not texts[one] & texts[other]
    assert all(len(set(by_split[split])) == len(by_split[split]) for split in ("validation", "test"))


def test_other_seeds_and_wordings_do_not_bring_test_graphs_into_training() -> None:
    settings: dict[str, Any] = {"min_ops": 2, "max_ops": 2}
    test = set(forms("test", **settings))
    assert not test & set(forms("train", num_train=5000, seed=1, **settings))
    assert not test & set(forms("train", num_train=5000, **settings, **HARD))


def test_canonical_form_ignores_names_definition_order_and_the_order_of_sums() -> None:
    def quantity(op: str, left: tuple[bool, int], right: tuple[bool, int]) -> Quantity:
        return Quantity(op, left, right, (), "", 0)

    one = [
        quantity("+", (True, 3), (True, 4)),
        quantity("*", (True, 7), (True, 2)),
        quantity("-", (False, 0), (False, 1)),
    ]
    two = [
        quantity("*", (True, 2), (True, 7)),
        quantity("+", (True, 4), (True, 3)),
        quantity("-", (False, 1), (False, 0)),
    ]
    swapped = [*two[:2], replace(two[2], left=(False, 0), right=(False, 1))]
    assert canonical(one) == canonical(two)
    assert canonical(one) != canonical(swapped)


def test_no_answer_is_common_on_any_level() -> None:
    examples = load(num_test=1000)
    for level in (None, 3, 4, 5):
        answers = Counter(example.answer for example in examples if level in (None, example.meta["level"]))
        assert answers.most_common(1)[0][1] / answers.total() < 0.15
        assert len(answers) == 10


def test_levels_are_equally_frequent() -> None:
    assert set(Counter(example.meta["level"] for example in load()).values()) == {100}


def test_without_branches_there_is_one_order() -> None:
    assert all(num_paths(example) == 1 for example in load(branch=0.0))


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no split 'dev'; choose one of train, validation, test"):
        load("dev")


def test_too_few_different_problems_are_reported() -> None:
    with pytest.raises(ValueError, match=r"no further test problem of level 1 after .* lower task\.num_test"):
        load(min_ops=1, max_ops=1, num_test=1000)


def test_levels_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"task\.min_ops is 6 but task\.max_ops is 5"):
        SynthConfig(min_ops=6)


def test_the_stream_of_problems_does_not_depend_on_the_split_sizes() -> None:
    few = list(islice(synth._problems(SynthConfig(num_test=1), "test"), 20))
    many = list(islice(synth._problems(SynthConfig(num_test=900, num_train=7), "test"), 20))
    assert few == many


def test_scoring_compares_numbers() -> None:
    task = Synth(SynthConfig(num_test=5))
    for example in task.load("test"):
        assert task.score(example.answer, example).status == "correct"
        assert task.score(f" {int(example.answer) + 1}", example).status == "incorrect"
        assert task.score("", example).status == "no_answer"
