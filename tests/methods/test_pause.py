"""`pause`: one pass equals unrolling, what is supervised, what the learned vector does, and that the presets train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from latbench.config import GenerateConfig, ModelConfig, TrainConfig, parse, tree
from latbench.decoding.loop import unroll
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.method import Losses, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.runs.train import train
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.losses import token_cross_entropy
from latbench.training.trainer import train_method
from methods.direct import Direct, DirectConfig
from methods.pause import Pause, PauseConfig
from tests.conftest import small_model

BackboneOf = Callable[..., Backbone]
STAGE = Stage(name="sft")
GENERATE = GenerateConfig(max_new_tokens=8, batch_size=2)
EXAMPLES = [
    Example(
        id=f"e{number}",
        question=f"n{number} = {number} + {number % 3};" * number + " n0 = ?",
        steps=tuple(f"<<{i}+{number}={i + number}>>" for i in range(number)),
        answer=str(7 * number),
    )
    for number in (3, 1, 4, 2)
]


def built(backbone: Backbone, **settings: Any) -> Pause:
    """A method whose pause is no row of the table."""
    method = Pause(backbone, PauseConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        noise = torch.randn(backbone.hidden_size, generator=generator, dtype=torch.float64)
        method.pause.add_(noise.to(method.pause.dtype))
    return method


def total(method: Pause, examples: list[Example]) -> Tensor:
    losses: Losses = method(method.batch(examples, STAGE), STAGE)
    return losses["ce"].total


# one pass


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_one_pass_equals_the_unrolled_pauses(backbone_of: BackboneOf, name: str, layout: str) -> None:
    method = built(backbone_of(name, layout=layout), num_pauses=3)
    backbone = method.backbone
    apart = backbone.batch_rollout([example.without_steps(None) for example in EXAMPLES])
    state = unroll(backbone, backbone.prefill(apart.question), method.rule(GENERATE))
    unrolled = token_cross_entropy(backbone.extend(state, apart.target), apart.target.labels)
    batch = method.batch(EXAMPLES, STAGE)
    term = method(batch, STAGE)["ce"]
    assert batch.num_items == {"ce": unrolled.num_items} == {"ce": term.num_items}
    torch.testing.assert_close(term.total, unrolled.total, rtol=0, atol=1e-10)
    ours = torch.autograd.grad(term.total, list(method.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(unrolled.total, list(method.parameters()), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_loss_equals_a_slow_loop_over_single_rows(backbone_of: BackboneOf, name: str) -> None:
    method = built(backbone_of(name), num_pauses=4)
    backbone = method.backbone
    expected = torch.zeros((), dtype=torch.float64)
    for example in EXAMPLES:
        whole = backbone.layout.encode(example)
        target = [*whole.answer, whole.eos]
        for end, label in enumerate(target):
            before, after = torch.tensor(whole.prompt), torch.tensor([*whole.close, *target[:end]], dtype=torch.long)
            pauses = method.pause.expand(4, -1)
            embeds = torch.cat([backbone.embed(before), pauses, backbone.embed(after)])[None]
            expected = expected + cross_entropy(backbone.model(inputs_embeds=embeds).logits[0, -1], torch.tensor(label))
    torch.testing.assert_close(total(method, EXAMPLES), expected, rtol=0, atol=1e-10)


def test_training_runs_the_model_once(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("llama"), num_pauses=6)
    passes: list[int] = []
    method.backbone.model.register_forward_hook(lambda *_: passes.append(1))
    total(method, EXAMPLES)
    assert len(passes) == 1


# what is supervised


def test_nothing_up_to_the_close_marker_is_supervised(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("gpt2"), num_pauses=6)
    layout = method.backbone.layout
    for example in EXAMPLES:
        batch = method.batch([example], STAGE)
        labels = batch.sequence.labels[0].tolist()
        prompt = method.prompt_ids(example.question)
        free = len(prompt) + 6 + len(layout.close) - 1  # a position predicts the next id
        assert labels[:free] == [IGNORE_INDEX] * free
        assert labels[free:] == [*layout.encode(example).answer, layout.eos, IGNORE_INDEX]
        assert batch.is_pause[0].nonzero()[:, 0].tolist() == list(range(len(prompt), len(prompt) + 6))


def test_the_chain_is_not_read_and_does_not_count(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("llama"))  # context 256
    long = replace(EXAMPLES[0], steps=("<<3+4=7>>",) * 300)
    assert torch.equal(total(method, [long]), total(method, [EXAMPLES[0]]))
    assert method.skip_reason(long, STAGE) is None
    room = method.backbone.context - len(method.backbone.layout.encode(long.without_steps(None)))
    assert built(method.backbone, num_pauses=room).skip_reason(long, STAGE) is None
    assert built(method.backbone, num_pauses=room + 1).skip_reason(long, STAGE) == "longer than the context"


def test_padding_changes_nothing(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("qwen2"))
    alone = torch.stack([total(method, [example]) for example in EXAMPLES])
    torch.testing.assert_close(total(method, EXAMPLES), alone.sum(), rtol=0, atol=1e-10)


# the learned vector


def test_the_pause_starts_as_the_token_that_coconut_starts_from(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("gemma3")  # its embedding module scales the rows
    (token,) = backbone.tokenizer.encode("<<", add_special_tokens=False)
    assert torch.equal(Pause(backbone, PauseConfig()).pause, backbone.embed(torch.tensor(token)))
    assert Pause(backbone, PauseConfig()).pause.dtype == torch.float64


def test_a_tokenizer_that_spells_it_in_parts_gives_their_mean(
    backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.pause.INITIAL", "<|")
    backbone = backbone_of("llama")
    ids = backbone.tokenizer.encode("<|", add_special_tokens=False)
    assert len(ids) == 2
    rows = backbone.embed(torch.tensor(ids))
    torch.testing.assert_close(Pause(backbone, PauseConfig()).pause, (rows[0] + rows[1]) / 2)


def test_gradients_reach_the_pause_and_the_whole_backbone(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("llama_untied"))
    total(method, EXAMPLES).backward()
    assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []
    (learned,) = method.heads["pause"].parameters()
    assert learned.grad is not None
    assert learned.grad.abs().sum() > 0


def test_another_pause_gives_another_loss_and_another_number_too(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("gpt2"))
    before = total(method, EXAMPLES)
    assert not torch.isclose(before, total(built(method.backbone, num_pauses=5), EXAMPLES))
    with torch.no_grad():
        method.pause.mul_(-1)
    assert not torch.isclose(before, total(method, EXAMPLES))


def test_the_placeholder_id_is_not_read(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("llama"))
    batch = method.batch(EXAMPLES, STAGE)
    before = method(batch, STAGE)["ce"].total
    batch.sequence.ids[batch.is_pause] = 7
    assert torch.equal(method(batch, STAGE)["ce"].total, before)


# decoding


def test_decoding_takes_m_pauses_and_answers_as_one_pass_would(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("qwen2"), num_pauses=5)
    backbone = method.backbone
    for example, found in zip(EXAMPLES, method.generate([e.question for e in EXAMPLES], GENERATE), strict=True):
        assert (found.num_latents, found.num_reasoning_tokens, found.closed) == (5, 0, True)
        prompt = torch.tensor(method.prompt_ids(example.question))
        ids: list[int] = list(backbone.layout.close)
        for _ in range(found.num_answer_tokens):
            pauses = method.pause.expand(5, -1)
            embeds = torch.cat([backbone.embed(prompt), pauses, backbone.embed(torch.tensor(ids))])[None]
            ids.append(int(backbone.model(inputs_embeds=embeds).logits[0, -1].argmax()))
        assert backbone.layout.decode(ids) == found.text


def test_the_prompt_is_that_of_direct_without_the_close_marker(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    direct = Direct(backbone, DirectConfig()).prompt_ids("n0 = 3")
    assert [*built(backbone).prompt_ids("n0 = 3"), *backbone.layout.close] == direct


def test_a_checkpoint_keeps_the_learned_pause(tmp_path: Path) -> None:
    model = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu")
    method = built(Backbone.load(model, seed=1))
    checkpoint.save(method, tmp_path / "checkpoint")
    loaded = checkpoint.load(tmp_path / "checkpoint", method="pause")
    assert isinstance(loaded, Pause)
    assert torch.equal(loaded.pause, method.pause)


def test_no_pause_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"method\.num_pauses"):
        parse({"method": {"name": "pause", "num_pauses": 0}})


# presets


@pytest.mark.parametrize("preset", tree.presets("pause"))
def test_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "method": {"name": "pause"},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "model": small_model(None if preset == "tiny" else "gpt2", tmp_path / "model"),
        "train": {"batch_size": 2, "accumulation": 2, "stages": {"sft": {"steps": 2}}},
        "generate": {"max_new_tokens": 4, "batch_size": 4},
    }
    config = parse(changes, preset=preset)
    assert config.method.num_pauses == tree.preset("pause", preset)["method"]["num_pauses"]
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records
    assert [record.num_latents for record in records] == [6, 6, 6]


def test_a_few_examples_are_learnt_by_heart(tmp_path: Path) -> None:
    backbone = Backbone.load(ModelConfig(hidden_size=32, num_layers=1, mlp_size=64, device="cpu"), seed=1)
    method = Pause(backbone, PauseConfig())
    train_method(method, EXAMPLES, TrainConfig(epochs=40, batch_size=4, lr=1e-2), folder=tmp_path, seed=0)
    found = method.generate([example.question for example in EXAMPLES], GenerateConfig(max_new_tokens=8))
    assert [generation.text for generation in found] == [example.answer for example in EXAMPLES]


def test_more_pauses_than_the_cap_or_the_context_are_refused(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("llama")
    with pytest.raises(ValueError, match=r"takes 6 latent steps, but generate.max_latents is 5; raise it"):
        built(backbone, num_pauses=6).rule(GenerateConfig(max_latents=5))
    with pytest.raises(ValueError, match=r"method.num_pauses is 600 latents, more than the context of llama"):
        built(backbone, num_pauses=600)
