"""Compiled steps of one shape: the answers of others, one compilation, and one sentence where there can be none."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from latbench import registry
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import StepRule
from latbench.decoding.session import Session
from latbench.model.backbone import Backbone
from latbench.model.compiled import forward_compiled

QUESTIONS = [f"n0 = {i} + 3; n{i} = n0 * 2; ?" + "long" * (i % 4) for i in range(11)]
CONFIG = GenerateConfig(batch_size=4, max_new_tokens=20, max_latents=300)  # whose sum decides on the columns: 512
COMPILED = replace(CONFIG, compiled=True)


@pytest.fixture
def small() -> Backbone:
    return Backbone.load(
        ModelConfig(device="cpu", dtype="float64", hidden_size=32, num_layers=1, num_heads=2, mlp_size=48)
    )


def in_session(backbone: Backbone) -> list[Generation]:
    session = Session(backbone, StepRule(backbone), COMPILED)
    numbers = [session.add(backbone.prompt(text), Prompt(id=text, text=text)) for text in QUESTIONS]
    done: dict[int, Generation] = {}
    while len(session):
        done.update(session.step())
    return [done[number] for number in numbers]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_compiled_steps_give_the_answers_of_others_and_are_compiled_once(small: Backbone) -> None:
    methods = [registry.get_method(name) for name in ("cot", "coconut", "soft_thinking", "colar")]
    made = [entry.cls(small, entry.config()) for entry in methods]
    expected = [method.generate(QUESTIONS, CONFIG) for method in made]
    assert made[0].generate(QUESTIONS, COMPILED) == expected[0]
    compiled = counters["stats"]["unique_graphs"]
    assert compiled
    assert [method.generate(QUESTIONS, COMPILED) for method in made] == expected
    assert made[0].generate(QUESTIONS[:3], COMPILED) == expected[0][:3]  # fewer rows than slots
    prompts = [Prompt(id=text, text=text) for text in QUESTIONS]
    ids = [small.prompt(text) for text in QUESTIONS]
    small.eval()
    assert in_session(small) == decode(small, ids, prompts, StepRule(small), CONFIG)
    short = small, [[5], [6], []], prompts[:3], StepRule(small)  # nothing to prefill: the first step allocates
    assert decode(*short, COMPILED) == decode(*short, CONFIG)
    assert counters["stats"]["unique_graphs"] == compiled


def test_a_step_that_cannot_be_compiled_is_refused_in_one_sentence() -> None:
    class Printing(torch.nn.Module):
        def forward(self, **_inputs: torch.Tensor) -> None:
            torch._dynamo.graph_break()

    with pytest.raises(ValueError, match=r"generate.compiled is true, and .* \(.*\); set it to false$"):
        forward_compiled(Printing(), torch.device("cpu"), inputs_embeds=torch.zeros(1))
