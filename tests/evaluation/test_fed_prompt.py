"""The prompt that a manifest keeps is what the model reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from latbench.config import GenerateConfig
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.fed_prompt import fed_prompt
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import MAX_PROMPT, read_evaluation, read_manifest, write_manifest
from latbench.registry import get_method
from latbench.runs.run import Run
from latbench.task import Example

EXAMPLES = [
    Example(id=str(number), question=text, steps=(), answer="7") for number, text in enumerate(("n", "n0 = 3?"))
]


def method(backbone: Any, name: str, **config: Any) -> Any:
    entry = get_method(name)
    return entry.cls(backbone, entry.config(**config))


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("cot", "default", {"before": "", "after": "<think>"}),
        ("direct", "default", {"before": "", "after": "<think></think>"}),
        (
            "colar",
            "question_answer",
            {"before": "Question: ", "after": " Let's think step by step:(Thinking speed: 5)<think>"},
        ),
    ],
)
def test_it_is_the_text_of_the_ids_that_are_fed(backbone_of: Any, name: str, layout: str, expected: Any) -> None:
    made = method(backbone_of("llama", layout=layout), name, **({"test_speed": 5} if name == "colar" else {}))
    found = fed_prompt(made, EXAMPLES, GenerateConfig())
    assert found is not None
    assert set(found) == {"before", "after"}
    assert found["before"] == expected["before"]
    assert found["after"].startswith(expected["after"].split("(")[0])
    for example in EXAMPLES:
        ids = made.prompt_ids(example.question, GenerateConfig())
        text = found["before"] + example.question + found["after"]
        assert made.backbone.tokenizer.encode(text, add_special_tokens=False) == ids


def test_the_first_is_kept_whole_where_prompts_differ_in_more_than_the_question(backbone_of: Any) -> None:
    made = method(backbone_of("llama", layout="answer_sentence"), "cot")  # makes one space of two
    spaced = [EXAMPLES[1], replace(EXAMPLES[1], question="two  spaces")]
    assert fed_prompt(made, spaced, GenerateConfig()) == {"first": "n0 = 3?<think>"}
    assert fed_prompt(made, spaced[:1], GenerateConfig()) == {"before": "", "after": "<think>"}
    assert fed_prompt(made, [], GenerateConfig()) is None
    long = [replace(spaced[1], question="two  spaces" + "7" * MAX_PROMPT)]
    assert fed_prompt(made, long, GenerateConfig()) is None


def test_an_evaluation_stores_it_with_shards_and_without(run: Run) -> None:
    from latbench.evaluation.shards import Shard

    folder = evaluate(EvalJob.of(run))
    assert read_evaluation(folder).manifest.prompt == {"before": "", "after": "<think>"}
    for index in (1, 2):
        folder = evaluate(EvalJob.of(run, changes={"seed": 5}), Shard(index, 2))
    assert read_evaluation(folder).manifest.prompt == {"before": "", "after": "<think>"}


@pytest.mark.parametrize(
    "prompt", [{"before": "a"}, {"first": 3}, {}, {"first": "x" * (MAX_PROMPT + 1)}, {"other": "x"}]
)
def test_a_manifest_with_an_impossible_prompt_is_refused(make: Any, record: Any, prompt: Any) -> None:
    evaluation = make([record("a")])
    write_manifest(evaluation.folder, replace(evaluation.manifest, prompt=prompt))
    with pytest.raises(ValueError, match="is not a latbench manifest: prompt "):
        read_manifest(evaluation.folder)
