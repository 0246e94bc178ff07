"""graphs: the answer follows from the text, the other candidate does not, disjoint splits, the published statistics."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from pydantic import ValidationError

from latbench.config import ModelConfig
from latbench.data import DATA_DIR
from latbench.model.backbone import Backbone
from latbench.model.loading import task_words
from latbench.model.tiny import CONTEXT, tiny_tokenizer
from latbench.task import Example, TaskConfig
from tasks.graphs import CONCEPTS, ENTITIES, SPLIT_SHARES, Graph, Graphs, GraphsConfig, canonical, question, statement
from tasks.prosqa import ProsQa

STATEMENT = re.compile(r"(Every )?(\w+) is a (\w+)\.")
ASKED = re.compile(r"Is (\w+) a (\w+) or (\w+)\?")
SMALL: dict[str, Any] = {"num_nodes": 10, "min_steps": 2, "max_steps": 3}


def load(split: str = "train", **settings: Any) -> list[Example]:
    return Graphs(GraphsConfig(**{"num_train": 400, "num_validation": 40, "num_test": 40} | settings)).load(split)


def classes(text: str) -> dict[str, list[str]]:
    """What every name is said to be, from the text alone."""
    said: dict[str, list[str]] = defaultdict(list)
    for every, name, kind in STATEMENT.findall(text):
        assert bool(every) == name.islower()
        said[name].append(kind)
    return said


def distances(text: str, root: str) -> dict[str, int]:
    said, found, waiting = classes(text), {root: 0}, [root]
    for name in waiting:
        for kind in said[name]:
            if kind not in found:
                found[kind] = found[name] + 1
                waiting.append(kind)
    return found


def graph_of(example: Example) -> Graph:
    """The problem of an example whose steps are a path of its graph."""
    names = example.meta["idx_to_symbol"]
    parents: list[list[int]] = [[] for _ in names]
    for parent, child in example.meta["edges"]:
        parents[child].append(parent)
    path = [example.meta["root"], *(names.index(step.rstrip(".").split()[-1]) for step in example.steps)]
    return Graph(tuple(map(tuple, parents)), tuple(path), example.meta["neg_target"])


# the problems


@pytest.mark.parametrize("settings", [{}, SMALL, {"num_nodes": 40, "mean_parents": 0.8, "num_train": 100}])
def test_the_answer_follows_from_the_text_and_the_other_candidate_does_not(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        match = ASKED.search(example.question)
        assert match is not None
        root, *candidates = match.groups()
        reached = distances(example.question, root)
        (gold,) = [name for name in candidates if name in reached]
        assert example.answer == f"{root} is a {gold}."
        assert len(set(candidates)) == 2
        assert all(any(name in kinds for kinds in classes(example.question).values()) for name in candidates)


@pytest.mark.parametrize("settings", [{}, SMALL])
def test_the_steps_are_a_shortest_path_of_statements(settings: dict[str, Any]) -> None:
    for example in load(**settings):
        statements = example.question.split(" Is ")[0]
        subjects, kinds = zip(*((name, kind) for _, name, kind in map(_parts, example.steps)), strict=True)
        assert all(step in statements for step in example.steps)
        assert subjects[1:] == kinds[:-1]
        assert example.answer == f"{subjects[0]} is a {kinds[-1]}."
        assert len(example.steps) == distances(example.question, subjects[0])[kinds[-1]]
        assert settings.get("min_steps", 3) <= len(example.steps) <= settings.get("max_steps", 12)


def _parts(step: str) -> Sequence[str]:
    match = STATEMENT.fullmatch(step)
    assert match is not None
    return match.groups()


def test_the_text_holds_the_graph_of_the_meta_and_nothing_else() -> None:
    for example in load(num_train=50):
        meta = json.loads(json.dumps(dict(example.meta)))
        assert meta == example.meta
        names = meta["idx_to_symbol"]
        assert len(set(names)) == len(names)
        assert {node for edge in meta["edges"] for node in edge} == set(range(len(names)))
        statements, asked = example.question.rsplit(" Is ", 1)
        said = [statement(names, *edge) for edge in meta["edges"]]
        assert Counter(re.findall(r"[^.]+\.", statements.replace(". ", "."))) == Counter(said)
        assert names[meta["root"]] == asked.split()[0]
        assert example.answer == statement(names, meta["root"], meta["target"])
        children = {child for _, child in meta["edges"]}
        assert [name[0].isupper() for name in names] == [node not in children for node in range(len(names))]


def test_neither_a_place_nor_a_name_tells_the_answer() -> None:
    examples = load(num_train=1500)
    first = 0
    for example in examples:
        match = ASKED.search(example.question)
        assert match is not None
        first += example.answer == f"{match[1]} is a {match[2]}."
    assert abs(first / 1500 - 0.5) < 0.052  # four standard errors
    commonest = Counter(example.answer.split()[-1] for example in examples).most_common(1)[0][1]
    assert commonest < 1500 * 2 / len(CONCEPTS)


def test_a_leaf_with_few_statements_is_a_hint_as_large_as_the_docstring_says() -> None:
    right = 0.0
    for example in load(num_train=1500):
        counts = Counter(kind for kinds in classes(example.question).values() for kind in kinds)
        names = example.meta["idx_to_symbol"]
        gold, other = counts[names[example.meta["target"]]], counts[names[example.meta["neg_target"]]]
        right += (gold < other) + (gold == other) / 2
    assert right / 1500 == pytest.approx(0.67, abs=0.04)


# splits


@pytest.mark.parametrize("settings", [{}, SMALL])
def test_splits_share_no_graph_and_no_graph_comes_twice_outside_training(settings: dict[str, Any]) -> None:
    forms = {split: [canonical(graph_of(e)) for e in load(split, **settings)] for split in SPLIT_SHARES}
    for split in ("validation", "test"):
        assert len(set(forms[split])) == len(forms[split])
    assert not set(forms["train"]) & set(forms["validation"])
    assert not set(forms["train"]) & set(forms["test"])
    assert not set(forms["validation"]) & set(forms["test"])


def test_the_canonical_form_ignores_numbers_and_sees_everything_else() -> None:
    rng = random.Random(0)
    seen: dict[str, Graph] = {}
    for example in load(num_train=60):
        graph = graph_of(example)
        form = canonical(graph)
        assert canonical(_renumbered(graph, rng)) == form
        swapped = Graph(graph.parents, (*graph.path[:-1], graph.other), graph.path[-1])
        child = max(graph.parents, key=len)
        parents = list(graph.parents)
        parents[graph.parents.index(child)] = child[1:]
        fewer = Graph(tuple(parents), graph.path, graph.other)
        assert len({form, canonical(swapped), canonical(fewer)}) == 3
        seen[form] = graph
    assert len(seen) == 60


def _renumbered(graph: Graph, rng: random.Random) -> Graph:
    """The same problem with its nodes in another order in which parents come first."""
    order: list[int] = []
    while len(order) < len(graph.parents):
        order.append(
            rng.choice(
                [n for n, chosen in enumerate(graph.parents) if n not in order and all(p in order for p in chosen)]
            )
        )
    number = {node: index for index, node in enumerate(order)}
    parents = [rng.sample([number[p] for p in graph.parents[node]], len(graph.parents[node])) for node in order]
    return Graph(tuple(map(tuple, parents)), tuple(number[n] for n in graph.path), number[graph.other])


def test_the_same_settings_give_the_same_rows_and_more_rows_begin_with_them() -> None:
    few, again, many = load(num_train=20), load(num_train=20), load(num_train=40)
    assert few == again == many[:20]
    assert [dict(e.meta) for e in few] == [dict(e.meta) for e in many[:20]]
    assert load(num_train=20, seed=1) != few
    assert Graphs(GraphsConfig(num_train=20)).fingerprint("train") != Graphs(
        GraphsConfig(num_train=20, seed=1)
    ).fingerprint("train")


def test_the_defaults_have_the_published_sizes() -> None:
    config = GraphsConfig()
    assert {split: config.size(split) for split in SPLIT_SHARES} == {"train": 17_886, "validation": 300, "test": 500}


def test_too_few_different_problems_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"no further test problem after \d+; lower task.num_test or"):
        load("test", num_nodes=6, num_test=500)


@pytest.mark.parametrize("bad", [{"num_nodes": 41}, {"num_nodes": 5}, {"min_steps": 4, "max_steps": 3}, {"split": 1}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        GraphsConfig(**bad)


def test_scoring_is_that_of_prosqa() -> None:
    task, prosqa = Graphs(GraphsConfig(num_test=5)), ProsQa(TaskConfig())
    for example in task.load("test"):
        names = example.meta["idx_to_symbol"]
        wrong = statement(names, example.meta["root"], example.meta["neg_target"])
        texts = [example.answer, f" {example.answer} ", example.answer.rstrip("."), wrong, names[0], ""]
        found = [task.score(text, example).status for text in texts]
        assert found == [prosqa.score(text, example).status for text in texts]
        assert found[0] == "correct"
        assert found[3:] == ["incorrect", "incorrect", "no_answer"]


@pytest.mark.parametrize(("words", "mean", "most"), [(None, 1050, 1700), ("graphs", 204, 310)])
def test_the_embedded_backbone_has_room_for_a_whole_problem(words: str | None, mean: float, most: int) -> None:
    tokenizer = tiny_tokenizer(task_words(words))
    texts = [" ".join([e.question, *e.steps, e.answer]) for e in load(num_train=400)]
    lengths = [len(tokenizer.encode(text)) for text in texts]
    assert fmean(lengths) == pytest.approx(mean, rel=0.03)
    assert max(lengths) < most < CONTEXT
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_words_of_a_task_are_single_tokens_of_the_embedded_backbone() -> None:
    config = ModelConfig(words="graphs", hidden_size=16, num_heads=2)
    backbone = Backbone.load(config)
    assert backbone.name == "tiny-graphs-16x2"
    text = "Every grimpus is a impus. Is Sam a impus or Max?"
    pieces = ["Every ", "grimpus", " is a ", "impus", ". ", "Is ", "Sam", " a ", "impus", " or ", "Max", "?"]
    assert [backbone.tokenizer.decode([token]) for token in backbone.encode(text)] == pieces
    assert len(backbone.tokenizer) == backbone.model.get_input_embeddings().weight.shape[0] == 297 + len(Graphs.words)


@pytest.mark.parametrize(("words", "sentence"), [("gsm8k", "names no words of its own"), ("graph", "graphs")])
def test_a_task_without_words_is_refused(words: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Backbone.load(ModelConfig(words=words))


# the published problems

FOLDER = Path(os.environ.get(DATA_DIR) or "/nowhere")
needs_data = pytest.mark.skipif(not (FOLDER / "prosqa_test.jsonl.gz").is_file(), reason=f"{DATA_DIR} holds no ProsQA")


@pytest.fixture(scope="module")
def published() -> list[Example]:
    task = ProsQa(TaskConfig())
    return [*task.load("validation"), *task.load("test")]


@needs_data
def test_names_and_wording_are_the_published_ones(published: list[Example]) -> None:
    names = {name for example in published for name in example.meta["idx_to_symbol"]}
    assert names == {*ENTITIES, *CONCEPTS}
    for example in published:
        symbols, root = example.meta["idx_to_symbol"], example.meta["root"]
        target, other = example.meta["target"], example.meta["neg_target"]
        statements = " ".join(sorted(statement(symbols, *edge) for edge in example.meta["edges"]))
        match = ASKED.search(example.question)
        assert match is not None
        asked = [target, other] if match[2] == symbols[target] else [other, target]
        assert match[0] == question(symbols, root, asked)
        theirs = example.question.removesuffix(f" {match[0]}")
        assert " ".join(sorted(re.findall(r"[A-Z][^.]+\.", theirs))) == statements
        assert example.answer == statement(symbols, root, target)


def _num_shortest_paths(example: Example) -> int:
    found = distances(example.question, example.steps[0].split()[0])
    said = classes(example.question)
    ways = {name: int(distance == 0) for name, distance in found.items()}
    for name in found:  # in order of distance
        for kind in said[name]:
            ways[kind] += ways[name] * (found[kind] == found[name] + 1)
    return ways[example.answer.rstrip(".").split()[-1]]


MEASURES: dict[str, tuple[Callable[[Example], float], float]] = {  # and how far the means may be apart
    "nodes": (lambda e: len(e.meta["idx_to_symbol"]), 0.4),
    "edges": (lambda e: len(e.meta["edges"]), 1.2),
    "words": (lambda e: len(e.question.split()), 6),
    "characters": (lambda e: len(e.question), 30),
    "entities": (lambda e: sum(name[0].isupper() for name in e.meta["idx_to_symbol"]), 0.2),
    "steps": (lambda e: len(e.steps), 0.13),
    "three steps": (lambda e: len(e.steps) == 3, 0.08),
    "five steps or more": (lambda e: len(e.steps) > 4, 0.06),
    "shortest paths": (_num_shortest_paths, 0.15),
    "the second entity is asked about": (lambda e: e.meta["root"], 0.08),
}


@needs_data
def test_statistics_are_the_published_ones(published: list[Example]) -> None:
    ours = load(num_train=1000)
    for name, (measure, tolerance) in MEASURES.items():
        difference = fmean(map(measure, ours)) - fmean(map(measure, published))
        assert abs(difference) < tolerance, f"{name}: off by {difference:.3f}"
