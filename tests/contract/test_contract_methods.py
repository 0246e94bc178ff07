"""What every registered method must hold, with its default settings on a small random backbone in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latbench import registry
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.loop import Prompt
from latbench.measures.answer_cost import AnswerFlops
from latbench.method import Losses, Method, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, Batch, Tokens
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.trainer import set_trainable
from tests.generations import num_emitted

EXAMPLES = [
    Example(
        id=str(number),
        question="; ".join(f"n{i} = n{i + 1} + {number}" for i in range(number)) + "; n0 = ?",
        steps=tuple(f"<<{i}+{number}={i + number}>>" for i in range(number)),
        answer=str(7 * number),
    )
    for number in range(1, 6)
]
QUESTIONS = [example.question for example in EXAMPLES]
GENERATE = GenerateConfig(max_new_tokens=12, max_latents=10, batch_size=3)


@pytest.fixture(params=registry.method_names())
def method(request: pytest.FixtureRequest) -> Method[Any]:
    """Each registered method; weights wide enough to tell tokens apart."""
    config = ModelConfig(hidden_size=32, num_layers=2, num_heads=2, mlp_size=48, dtype="float64", device="cpu")
    backbone = Backbone.load(config, seed=7)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    torch.manual_seed(7)
    entry = registry.get_method(request.param)
    made: Method[Any] = entry.cls(backbone, entry.config())
    return made.eval()


@dataclass
class Trial:
    """One stage with the loss on one batch of all examples."""

    stage: Stage
    batch: Batch
    losses: Losses


def trials(method: Method[Any], folder: Path) -> Iterator[Trial]:
    method.build_auxiliary()
    for stage in method.stages():
        stage_folder = folder / stage.name
        stage_folder.mkdir()
        method.prepare(stage, EXAMPLES, stage_folder)
        set_trainable(method, stage)
        batch = method.batch(EXAMPLES, stage)
        yield Trial(stage, batch, method(batch, stage))


def test_stages_have_names_of_their_own_and_share_one_budget(method: Method[Any]) -> None:
    stages = method.stages()
    assert len({stage.name for stage in stages}) == len(stages)
    free = [stage.share for stage in stages if stage.epochs is None and stage.steps is None]
    assert not free or sum(free) == pytest.approx(1)


def test_items_are_known_before_the_forward_pass_and_losses_are_finite(method: Method[Any], tmp_path: Path) -> None:
    for trial in trials(method, tmp_path):
        assert {name: term.num_items for name, term in trial.losses.items()} == trial.batch.num_items
        assert all(torch.isfinite(term.total) and term.total.dim() == 0 for term in trial.losses.values())


def test_gradients_reach_exactly_what_the_stage_trains(method: Method[Any], tmp_path: Path) -> None:
    for trial in trials(method, tmp_path):
        method.zero_grad(set_to_none=True)
        trial.losses.objective().backward()
        gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
        reached = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
        assert reached == {name for name, _ in method.trainable_parameters(trial.stage)}


def test_the_loss_of_a_batch_is_the_sum_over_its_examples(method: Method[Any], tmp_path: Path) -> None:
    for trial in trials(method, tmp_path):
        alone = [method(method.batch([example], trial.stage), trial.stage) for example in EXAMPLES]
        for name, term in trial.losses.items():
            assert sum(losses[name].num_items for losses in alone) == term.num_items
            together = torch.stack([losses[name].total for losses in alone]).sum()
            if name in method.batch_terms:  # declared only where it is so
                assert not torch.isclose(together, term.total, rtol=1e-3)
            else:
                torch.testing.assert_close(together, term.total, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", registry.method_names())
def test_padding_beside_a_row_that_fills_the_context_needs_no_position(
    name: str, backbone_of: Callable[..., Backbone], tmp_path: Path
) -> None:
    """Learned positions end with the context; padding after a short row reaches further."""
    torch.manual_seed(7)
    entry = registry.get_method(name)
    method: Method[Any] = entry.cls(backbone_of("gpt2"), entry.config()).eval()
    room = method.backbone.context - len(method.prompt_ids("")) - 10 * len(method.backbone.layout.close)
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(("x" * room, "y", "z"))]
    config = GenerateConfig(max_new_tokens=40, max_latents=10, batch_size=3)
    assert method.generate(prompts, config) == [method.generate([prompt], config)[0] for prompt in prompts]
    long_question = Example(id="0", question="x" * (room - 40), steps=tuple("12345"), answer="1")
    long_text = Example(id="1", question="x", steps=tuple("12345"), answer="1" * 60)
    method.build_auxiliary()
    for stage in method.stages():
        (tmp_path / stage.name).mkdir()
        method.prepare(stage, [long_question, long_text], tmp_path / stage.name)
        assert [method.skip_reason(example, stage) for example in (long_question, long_text)] == [None, None]
        together = method(method.batch([long_question, long_text], stage), stage)
        assert all(torch.isfinite(term.total) for term in together.values())


def test_the_order_of_a_batch_changes_no_term(method: Method[Any], tmp_path: Path) -> None:
    declared = set(method.batch_terms)
    for trial in trials(method, tmp_path):
        backwards = method(method.batch(EXAMPLES[::-1], trial.stage), trial.stage)
        declared -= trial.losses.keys()
        for name, term in trial.losses.items():
            assert backwards[name].num_items == term.num_items
            torch.testing.assert_close(backwards[name].total, term.total, rtol=1e-8, atol=1e-8)
    assert not declared, "every term of the batch exists"


def test_padding_and_questions_are_never_supervised(method: Method[Any], tmp_path: Path) -> None:
    for trial in trials(method, tmp_path):
        for name, value in ((field.name, getattr(trial.batch, field.name)) for field in fields(trial.batch)):
            if not isinstance(value, Tokens):
                continue
            supervised = value.labels != IGNORE_INDEX
            assert not supervised[~value.mask].any()
            if name == "question":
                assert not supervised.any()
            if name == "tokens":  # a position predicts the next id
                for row, example in enumerate(EXAMPLES):
                    num_prompt = len(method.prompt_ids(example.question))
                    assert not supervised[row, : num_prompt - 1].any()
                    assert supervised[row, num_prompt - 1 : int(value.lengths[row]) - 1].all()
                    assert not supervised[row, int(value.lengths[row]) - 1 :].any()


def test_batched_generation_equals_single_rows(method: Method[Any]) -> None:
    together = method.generate(QUESTIONS, GENERATE)
    alone = [method.generate([Prompt(id=str(i), text=question)], GENERATE)[0] for i, question in enumerate(QUESTIONS)]
    assert together == alone


def test_counts_of_a_generation_fit_together(method: Method[Any]) -> None:
    for question, generation in zip(QUESTIONS, method.generate(QUESTIONS, GENERATE), strict=True):
        assert generation.num_prompt_tokens == len(method.prompt_ids(question))
        emitted = num_emitted(generation)
        assert emitted <= GENERATE.max_new_tokens
        assert generation.num_latents <= GENERATE.max_latents
        assert generation.decode_steps >= emitted + generation.num_latents - 1  # the last token need not be fed
        assert generation.stop_reason in ("eos", "length")
        assert bool(generation.reasoning) <= bool(generation.num_reasoning_tokens)
        assert bool(generation.text) <= bool(generation.num_answer_tokens)


def test_a_loaded_checkpoint_generates_the_same(method: Method[Any], tmp_path: Path) -> None:
    before = method.generate(QUESTIONS, GENERATE)
    checkpoint.save(method, tmp_path / "checkpoint")
    loaded = checkpoint.load(tmp_path / "checkpoint", method=method.name)
    assert type(loaded) is type(method)
    assert loaded.config == method.config
    assert loaded.generate(QUESTIONS, GENERATE) == before


def test_operations_of_an_answer_are_what_a_profiler_counts(method: Method[Any]) -> None:
    method.backbone.model.set_attn_implementation("eager")  # the profiler knows no fused attention of a CPU
    with FlopCounterMode(display=False) as counter:
        (answer,) = method.generate(QUESTIONS[-1:], GENERATE, seed=0)
    formula = AnswerFlops.of(method)
    found = formula.of_counts(answer.num_prompt_tokens, answer.decode_steps, answer.num_latents)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.005)
