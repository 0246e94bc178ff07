"""synth_words: the text alone gives the answer, exact orders, disjoint splits, uniform answers, one place per value."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from pydantic import ValidationError

from latbench.task import Example
from tasks.synth import SynthConfig, canonical, draw, num_paths, paths, ready, split_of
from tasks.synth_words import ASKED, FACTS, FORMS, LEAST, SynthWords, SynthWordsConfig, _problems

HARD: dict[str, Any] = {"shuffled": True, "distractors": 5, "min_ops": 4, "max_ops": 8, "max_value": 150}
EQUATION = re.compile(r"<<(\d+)([-+*])(\d+)=(\d+)>>")
WORDS = r"[a-z]+(?: of [a-z]+)?"


def load(split: str = "test", **settings: Any) -> list[Example]:
    sizes = {"num_train": 300, "num_validation": 60, "num_test": 200}
    return SynthWords(SynthWordsConfig(**sizes | settings)).load(split)


def pattern(form: str) -> re.Pattern[str]:
    """What a form can say; a slot that comes again says the same again."""
    slots = {
        "who": r"[A-Z]\w+", "what": WORDS, "a": r"\d+", "b": r"\d+",
        "has": rf"(?P<has_who>[A-Z]\w+) has {WORDS}", "of": rf"(?P<of_who>[A-Z]\w+)'s {WORDS}",
        "of2": rf"(?P<of2_who>[A-Z]\w+)'s {WORDS}",
    }  # fmt: skip
    seen: set[str] = set()

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{slots[name]})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", slot, re.escape(form)))


PATTERNS = [(key, pattern(form)) for key, forms in FORMS.items() for form in forms]
QUESTIONS = [pattern(form) for form in ASKED]
IRRELEVANT = [pattern(form) for form in FACTS]


def read(question: str) -> tuple[dict[str, tuple[str, str, str]], str]:
    """(left, operator, right) by person, an operand a number or a person; and the person who is asked about."""
    *sentences, last = re.split(r"(?<=\.) ", question)
    quantities: dict[str, tuple[str, str, str]] = {}
    for sentence in sentences:
        found = [(key, match) for key, form in PATTERNS if (match := form.fullmatch(sentence))]
        facts = [form for form in IRRELEVANT if form.fullmatch(sentence)]
        assert len(found) + len(facts) == 1, sentence
        if facts:
            continue
        [(key, match)] = found
        left, op, right = key.split()
        groups = match.groupdict()
        owners = [groups.get("of_who") or groups.get("has_who"), groups.get("of2_who")]
        if key == "quantity - quantity" and "has_who" in groups:
            owners[0] = groups["has_who"]
        others = iter(owners)
        operands = [
            str(groups[slot]) if kind == "number" else str(next(others)) for slot, kind in (("a", left), ("b", right))
        ]
        assert groups["who"] not in quantities
        quantities[groups["who"]] = (operands[0], op, operands[1])
    [asked] = [match["who"] for form in QUESTIONS if (match := form.fullmatch(last))]
    return quantities, asked


def compute(op: str, left: int, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[op]


def value(quantities: dict[str, tuple[str, str, str]], word: str) -> int:
    if word.isdigit():
        return int(word)
    left, op, right = quantities[word]
    return compute(op, value(quantities, left), value(quantities, right))


@pytest.mark.parametrize("settings", [{}, HARD, {"order": "canonical", "distractors": 0}, {"branch": 0.9}])
def test_answer_follows_from_the_text_and_from_the_steps(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        quantities, asked = read(example.question)
        assert int(example.answer) == value(quantities, asked)
        for step in example.steps:
            match = EQUATION.fullmatch(step)
            assert match is not None
            left, op, right, result = match.groups()
            assert int(result) == compute(op, int(left), int(right))
        assert example.steps[-1].endswith(f"={example.answer}>>")


@pytest.mark.parametrize("settings", [{}, HARD])
def test_meta_names_the_quantities_and_what_they_need(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        meta = json.loads(json.dumps(dict(example.meta)))
        assert meta == example.meta
        quantities, asked = read(example.question)
        owners = [name.split("'")[0] for name in meta["names"]]
        assert owners[-1] == asked
        for owner, step, needs in zip(owners, meta["steps"], meta["needs"], strict=True):
            left, op, right = quantities[owner]
            numbers = f"{value(quantities, left)}{op}{value(quantities, right)}"
            assert step == f"<<{numbers}={value(quantities, owner)}>>"
            assert [owners[i] for i in needs] == [word for word in (left, right) if not word.isdigit()]
        assert example.steps == tuple(meta["steps"][i] for i in meta["order"])
        assert {j for needs in meta["needs"] for j in needs} == set(range(meta["level"] - 1))


@pytest.mark.parametrize("settings", [{}, HARD])
def test_distractors_are_sentences_that_the_answer_does_not_need(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        num_sentences = len(re.split(r"(?<=\.) ", example.question)) - 1
        assert num_sentences == example.meta["level"] + settings.get("distractors", 1)


@pytest.mark.parametrize("settings", [{}, HARD])
def test_a_value_is_written_in_its_step_and_in_the_one_that_needs_it_alone(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        values = [node.value for node in SynthWords(SynthWordsConfig()).graph(example)]
        in_text = re.findall(r"\d+", example.question)
        assert len(set(values)) == len(values)
        assert not set(values) & set(in_text)
        in_steps = Counter(number for step in example.steps for number in re.findall(r"\d+", step))
        assert {in_steps[number] for number in values[:-1]} <= {2}
        assert in_steps[values[-1]] == 1
        most = settings.get("max_value", 99)
        assert all(LEAST <= int(number) <= most for number in [*values, *in_text])


def test_phrases_name_whose_quantity_a_step_computes() -> None:
    plain, phrases = load(order="canonical"), load(order="canonical", steps="phrases")
    for equation, phrase in zip(plain, phrases, strict=True):
        owners = [name.split("'")[0] for name in phrase.meta["names"]]
        for owner, step, words in zip(owners, equation.steps, phrase.steps, strict=True):
            assert words == f"{owner}: " + re.sub(r"([-+*=])", r" \1 ", step.strip("<>"))
        task = SynthWords(SynthWordsConfig())
        assert [node.value for node in task.graph(equation)] == [node.value for node in task.graph(phrase)]


def test_paths_are_exactly_the_valid_orders() -> None:
    for example in load(num_test=60):
        steps, needs = example.meta["steps"], example.meta["needs"]
        brute = {
            tuple(steps[i] for i in order)
            for order in permutations(range(len(steps)))
            if all(order.index(j) < order.index(i) for i, required in enumerate(needs) for j in required)
        }
        found = SynthWords(SynthWordsConfig()).paths(example)
        assert len(found) == len(set(found)) == num_paths(example)
        assert set(found) == brute == set(paths(example))
        assert example.steps in brute


def test_ready_walks_through_any_chain() -> None:
    for example in load(num_test=60):
        done: list[int] = []
        for index in example.meta["order"]:
            assert index in ready(example, done)
            done.append(index)
        assert ready(example, done) == []


def test_orders_of_training_chains_are_about_equally_frequent() -> None:
    first = Counter(
        example.meta["order"][0]
        for example in load("train", num_train=600)
        if example.meta["needs"][:3] == [[], [], []]
    )
    assert set(first) >= {0, 1, 2}
    assert max(first[i] for i in range(3)) < 2 * min(first[i] for i in range(3))


def test_graphs_are_drawn_as_synth_draws_them() -> None:
    shapes = SynthConfig(branch=0.5)
    rng = random.Random(0)
    theirs = Counter(tuple(q.needs for q in draw(rng, shapes, 4)) for _ in range(4000))
    ours = Counter(
        tuple(map(tuple, example.meta["needs"])) for example in load("train", num_train=1500, min_ops=4, max_ops=4)
    )
    assert set(ours) <= set(theirs)
    for shape, count in theirs.items():
        assert ours[shape] / 1500 == pytest.approx(count / 4000, abs=0.06)


def test_wording_and_order_leave_the_problems_as_they_are() -> None:
    plain, hard = load(), load(order="canonical", shuffled=True, distractors=7)
    assert [example.meta["steps"] for example in plain] == [example.meta["steps"] for example in hard]
    assert [example.question for example in plain] != [example.question for example in hard]


def test_the_same_settings_give_the_same_rows_and_a_longer_set_starts_with_a_shorter_one() -> None:
    assert load("train") == load("train")
    assert load("train", num_train=400)[:300] == load("train")
    assert load("train", seed=1) != load("train")


def forms(split: str, **settings: Any) -> list[str]:
    """Canonical forms recomputed from the texts."""
    found = []
    for example in load(split, **settings):
        quantities, asked = read(example.question)

        def form(word: str, quantities: dict[str, tuple[str, str, str]] = quantities) -> str:
            if word.isdigit():
                return word
            left, op, right = quantities[word]
            operands = [form(left), form(right)]
            return f"({op}".join(operands if op == "-" else sorted(operands)) + ")"

        found.append(form(asked))
    return found


@pytest.mark.parametrize("settings", [{"min_ops": 2, "max_ops": 2, "num_train": 2000}, HARD])
def test_splits_share_neither_graph_nor_text(settings: dict[str, Any]) -> None:
    by_split = {split: forms(split, **settings) for split in SynthWords.splits}
    texts = {split: {example.question for example in load(split, **settings)} for split in SynthWords.splits}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not set(by_split[one]) & set(by_split[other])
        assert not texts[one] & texts[other]
    assert all(len(set(by_split[split])) == len(by_split[split]) for split in ("validation", "test"))


def test_the_split_of_a_problem_does_not_depend_on_seed_and_settings() -> None:
    for seed, most in ((0, 99), (7, 300)):
        problems = _problems(SynthWordsConfig(seed=seed, max_value=most), "test")
        assert all(split_of(canonical(next(problems))) == "test" for _ in range(50))


def test_answers_are_uniform_on_every_level() -> None:
    examples = load("train", num_train=2940)
    for level in (None, 3, 4, 5):
        answers = [int(example.answer) for example in examples if level in (None, example.meta["level"])]
        assert min(answers) == LEAST
        assert max(answers) == 99
        tenths = Counter((answer - LEAST) * 10 // 98 for answer in answers)
        expected = len(answers) / 10
        chi_square = sum((tenths[i] - expected) ** 2 / expected for i in range(10))
        assert chi_square < 27.9, f"level {level}: {tenths}"  # 0.1 % of uniform samples exceed it


def test_every_form_occurs() -> None:
    examples = load("train", num_train=300)
    sentences = [sentence for example in examples for sentence in re.split(r"(?<=\.) ", example.question)]
    for _, form in PATTERNS:
        assert any(form.fullmatch(sentence) for sentence in sentences)
    assert all(any(form.fullmatch(sentence) for sentence in sentences) for form in [*IRRELEVANT, *QUESTIONS])


def test_levels_are_equally_frequent() -> None:
    assert set(Counter(example.meta["level"] for example in load(num_test=150)).values()) == {50}


def test_scoring_compares_numbers() -> None:
    task = SynthWords(SynthWordsConfig(num_test=5))
    for example in task.load("test"):
        assert task.score(f"So there are {example.answer}.", example).status == "correct"
        assert task.score(str(int(example.answer) + 1), example).status == "incorrect"
        assert task.score("", example).status == "no_answer"


def test_fingerprint_follows_the_rows_and_names_the_settings() -> None:
    digests = {
        SynthWords(SynthWordsConfig(num_test=20, **other)).fingerprint("test").sha256
        for other in ({}, {"seed": 1}, {"steps": "phrases"}, {"distractors": 0})
    }
    assert len(digests) == 4
    source = SynthWords(SynthWordsConfig(num_test=20, shuffled=True)).fingerprint("test").source
    assert source == ("synth_words: ops 3-5, up to 99, branch 0.5, seed 0, random, equations, shuffled, 1 distractors")


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"synth_words has no split 'dev'; choose one of train, validation, test"):
        load("dev")


def test_too_few_different_problems_are_reported() -> None:
    with pytest.raises(ValueError, match=r"no further test problem of level 1 with answer \d+ after .*task\.max_value"):
        load(min_ops=1, max_ops=1, max_value=30, num_test=1000)


def test_levels_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"task\.min_ops is 6 but task\.max_ops is 5"):
        SynthWordsConfig(min_ops=6)


def test_the_largest_problems_have_a_person_for_every_sentence() -> None:
    [example] = load(min_ops=12, max_ops=12, distractors=12, max_value=999, num_test=1)
    assert len(re.split(r"(?<=\.) ", example.question)) == 25
