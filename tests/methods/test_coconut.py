"""Coconut against arithmetic worked by hand and a loop without cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig, ModelConfig, RunConfig, TrainConfig, parse, tree
from latbench.decoding.loop import Prompt, decode, unroll
from latbench.decoding.rule import FixedLatents, RecordedLatents
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.method import Losses, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, pad
from latbench.runs.train import train
from latbench.task import Example
from latbench.training.losses import token_cross_entropy
from latbench.training.trainer import train_method
from methods.coconut import Coconut, CoconutConfig
from methods.direct import Direct, DirectConfig
from tests.conftest import make_backbone, small_model

ANN = Example(
    id="ann",
    question="n0 = 3 * 4; n0 - 2 = ?",
    steps=("<<3*4=12>>", "<<12-2=10>>", "<<10-0=10>>", "<<10*1=10>>", "<<10+0=10>>"),
    answer="10",
)
EXAMPLES = [
    ANN,
    Example(id="one", question="n0 = 4 + 3; n0 = ?", steps=("<<4+3=7>>",), answer="7"),
    Example(id="none", question="2?", steps=(), answer="-25"),
    Example(id="two", question="n1 = 1; n0 = n1 + 1; n0 = ?", steps=("<<1=1>>", "<<1+1=2>>"), answer="2"),
]
PARITY = [
    ("gpt2", "default"),
    ("llama", "default"),
    ("qwen2", "default"),
    ("gpt2", "plain_hash_answer"),
    ("llama", "plain_hash_answer"),
]


def built(backbone: Backbone, **settings: Any) -> Coconut:
    torch.manual_seed(7)
    return Coconut(backbone, CoconutConfig(**settings)).eval()


def at(method: Coconut, name: str) -> Stage:
    return next(stage for stage in method.stages() if stage.name == name)


def loss_of(method: Coconut, examples: list[Example], name: str) -> Losses:
    stage = at(method, name)
    losses: Losses = method(method.batch(examples, stage), stage)
    return losses


def recorded(backbone: Backbone, questions: list[str], num: int | Tensor) -> list[Tensor]:
    """What an unroll feeds, and at last what would have come next: (batch, hidden) per step."""
    record, prompts = RecordedLatents(), pad([backbone.prompt(question) for question in questions])
    unroll(backbone, backbone.prefill(prompts), FixedLatents(backbone, num), record=record)
    return [*record.fed, record.after]


# curriculum (11.1)


@pytest.mark.parametrize(
    ("name", "replaced", "num_latents"),
    [("stage0", 0, 0), ("stage1", 1, 2), ("stage2", 2, 4), ("stage3", 3, 6), ("final", 5, 6)],
)
def test_a_stage_replaces_steps_by_latents(name: str, replaced: int, num_latents: int) -> None:
    method = built(make_backbone("llama"))
    layout = method.backbone.layout
    batch = method.batch(EXAMPLES[:2], at(method, name))
    assert batch.num_latents.tolist() == [num_latents, num_latents], "whatever the number of steps"
    for row, example in enumerate(EXAMPLES[:2]):
        rest = layout.encode(example.without_steps(replaced))
        expected = [*rest.steps, *rest.close, *rest.answer, rest.eos]
        assert batch.target.ids[row, : len(expected)].tolist() == expected
        assert int(batch.target.lengths[row]) == len(expected)
        assert batch.question.ids[row, : len(rest.prompt)].tolist() == list(rest.prompt)


def test_the_papers_epochs_are_reproduced() -> None:
    method = built(make_backbone("llama"), **tree.preset("coconut", "gpt2")["method"])
    schedule = [stage for stage in method.stages() for _ in range(int(stage.epochs or 0))]
    found = {
        epoch: (schedule[epoch - 3].index, method.num_latents(schedule[epoch - 3].index)) for epoch in range(3, 25)
    }
    assert len(schedule) == 22
    expected = {**dict.fromkeys(range(3, 6), (1, 2)), **dict.fromkeys(range(6, 9), (2, 4))}
    assert found == {**expected, **dict.fromkeys(range(9, 12), (3, 6)), **dict.fromkeys(range(12, 25), (4, 6))}


@pytest.mark.parametrize(
    ("first_stage", "names", "shares"),
    [
        (0, ["stage0", "stage1", "stage2", "final"], [0.2, 0.2, 0.2, 0.4]),
        (1, ["stage1", "stage2", "final"], [0.3, 0.3, 0.4]),
        (3, ["final"], [1.0]),
    ],
)
def test_stages_share_the_budget(first_stage: int, names: list[str], shares: list[float]) -> None:
    stages = built(make_backbone("llama"), max_stage=2, first_stage=first_stage, final_share=0.4).stages()
    assert [stage.name for stage in stages] == names
    assert [stage.share for stage in stages] == pytest.approx(shares)
    assert all(stage.epochs is None for stage in stages)


# layout (11.2)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_what_is_supervised(layout: str) -> None:
    """The remaining chain and the close marker after it; a marker right after the latents is forced."""
    method = built(make_backbone("llama", layout=layout), max_stage=4)
    batch = method.batch(EXAMPLES[:2], at(method, "stage1"))
    assert (batch.question.labels == IGNORE_INDEX).all()
    rest, answer = (method.backbone.layout.encode(e.without_steps(1)) for e in EXAMPLES[:2])
    labels = [row[row != IGNORE_INDEX].tolist() for row in batch.target.labels]
    assert labels[0] == [*rest.steps, *rest.close, *rest.answer, rest.eos]
    assert labels[0][0] == method.backbone.layout.steps(ANN.steps[1:])[0]
    assert labels[1] == [*answer.answer, answer.eos]
    assert batch.num_items == {"ce": sum(map(len, labels))}


# parity (11.4, 11.6, 11.8, 11.9)


def slow(method: Coconut, example: Example, k: int) -> tuple[list[Tensor], Tensor, int]:
    """Latents, summed loss and number of its tokens at stage k; the whole prefix anew for every latent."""
    backbone = method.backbone
    pieces = backbone.layout.encode(example.without_steps(k if k <= method.config.max_stage else None))
    embeds = backbone.embed(torch.tensor(pieces.prompt))
    latents = []
    for _ in range(method.config.latents_per_step * min(k, method.config.max_stage)):
        hidden = backbone.model(inputs_embeds=embeds[None], output_hidden_states=True).hidden_states[-1][0, -1]
        pause = method.config.thought == "pause"
        latents.append(method.heads["pause"].get_parameter("weight")[0] if pause else hidden)
        embeds = torch.cat([embeds, latents[-1][None]])
    text = [*pieces.steps, *pieces.close, *pieces.answer, pieces.eos]
    whole = torch.cat([embeds, backbone.embed(torch.tensor(text))])
    scores = backbone.model(inputs_embeds=whole[None]).logits[0, len(embeds) - 1 : -1].log_softmax(-1)
    first = 0 if pieces.steps else len(pieces.close)
    loss = -torch.stack([scores[i, token] for i, token in enumerate(text) if i >= first]).sum()
    return latents, loss, len(text) - first


@pytest.mark.parametrize(("name", "layout"), PARITY)
@torch.no_grad()
def test_latents_and_loss_equal_a_loop_without_cache(name: str, layout: str) -> None:
    method = built(make_backbone(name, layout=layout), max_stage=2)
    for stage in method.stages():
        losses = loss_of(method, EXAMPLES, stage.name)
        rows = [slow(method, example, stage.index) for example in EXAMPLES]
        assert losses["ce"].num_items == sum(num for _, _, num in rows)
        assert float(losses["ce"].total) == pytest.approx(sum(float(loss) for _, loss, _ in rows), rel=1e-10)
        fed = recorded(method.backbone, [example.question for example in EXAMPLES], method.num_latents(stage.index))
        assert len(fed) == len(rows[0][0]) + 1
        for row, (latents, _, _) in enumerate(rows):
            for got, expected in zip(fed, latents, strict=False):
                torch.testing.assert_close(got[row], expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_every_latent_sees_the_question() -> None:
    """Without a cache the second latent would be the state at the first one alone."""
    backbone = make_backbone("llama")
    first, second, *_ = recorded(backbone, [ANN.question], 2)
    cacheless = backbone.model(inputs_embeds=first[:, None], output_hidden_states=True).hidden_states[-1][:, 0]
    assert not torch.allclose(cacheless, second, atol=1e-2)
    other = recorded(backbone, [ANN.question.replace("3", "5", 1)], 6)
    assert not torch.allclose(other[5], recorded(backbone, [ANN.question], 6)[5], atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2_sliding"])
@torch.no_grad()
def test_a_row_sees_neither_its_neighbours_nor_padding(name: str) -> None:
    method = built(make_backbone(name))
    longer = Example(id="longer", question="x " * 20, steps=("<<1+1=2>>",) * 6, answer="123456")
    for stage in ("stage1", "final"):
        together = loss_of(method, [*EXAMPLES, longer], stage)["ce"].total
        alone = [loss_of(method, [example], stage)["ce"].total for example in [*EXAMPLES, longer]]
        torch.testing.assert_close(torch.stack(alone).sum(), together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_rows_may_have_different_numbers_of_latents(name: str) -> None:
    backbone, counts = make_backbone(name), [0, 2, 4, 3]
    questions = [example.question for example in EXAMPLES]
    start = backbone.prefill(pad([backbone.prompt(question) for question in questions]))
    target = pad([[*backbone.layout.close, 7, 8]] * len(questions))
    state = unroll(backbone, start, FixedLatents(backbone, torch.tensor(counts)))
    assert (state.lengths - torch.tensor([len(backbone.prompt(q)) for q in questions])).tolist() == counts
    together = backbone.extend(state, target)
    for row, (question, num) in enumerate(zip(questions, counts, strict=True)):
        alone = unroll(backbone, backbone.prefill(pad([backbone.prompt(question)])), FixedLatents(backbone, num))
        logits = backbone.extend(alone, pad([[*backbone.layout.close, 7, 8]]))
        torch.testing.assert_close(logits[0], together[row], rtol=1e-9, atol=1e-9)


def test_counts_of_latents_follow_their_questions_through_decoding() -> None:
    backbone = make_backbone("llama")
    counts, questions = torch.tensor([3, 0, 1, 2]), [example.question for example in EXAMPLES]
    prompts = [Prompt(id=q, text=q) for q in questions]
    ids = [backbone.prompt(q) for q in questions]
    config = GenerateConfig(max_new_tokens=3, batch_size=2)
    got = decode(backbone, ids, prompts, FixedLatents(backbone, counts), config)
    assert [generation.num_latents for generation in got] == counts.tolist()


# passes, gradients (11.5, 11.7)


@pytest.mark.parametrize(("name", "expected"), [("stage0", 2), ("final", 8)])
def test_a_training_step_runs_the_model_once_per_latent_and_twice(name: str, expected: int) -> None:
    method = built(make_backbone("llama"))
    passes: list[int] = []
    method.backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    loss_of(method, EXAMPLES, name)
    assert len(passes) == expected


@pytest.mark.parametrize("thought", ["hidden", "pause"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_loss_and_gradients_equal_a_loop_without_cache(name: str, thought: str) -> None:
    """The gradients flow through all latents."""
    method = built(make_backbone(name), thought=thought)
    stage = at(method, "final")
    got = loss_of(method, EXAMPLES, stage.name)["ce"].total
    expected = torch.stack([slow(method, example, stage.index)[1] for example in EXAMPLES]).sum()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    parameters = list(method.parameters())
    for one, other in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # Llama norms are float32


def test_a_pause_is_trained_where_there_are_latents_and_answers_without_their_states() -> None:
    method = built(make_backbone("llama"), max_stage=1, thought="pause")
    for stage, trained in zip(method.stages(), (False, True, True), strict=True):
        assert ("heads.pause.weight" in dict(method.trainable_parameters(stage))) == trained
    config = GenerateConfig(max_new_tokens=6)
    (answer,) = method.generate([ANN.question], config, trace=True)
    assert answer.num_latents == 2
    assert answer.trace is not None
    pause = method.heads["pause"].get_parameter("weight").detach()
    torch.testing.assert_close(answer.trace.embeds, pause.float().expand(2, -1))


# without latents, without curriculum (8)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
@torch.no_grad()
def test_without_latents_it_is_cot_then_no_cot(layout: str) -> None:
    method = built(make_backbone("gpt2", layout=layout), latents_per_step=0)
    backbone = method.backbone
    cot = backbone.batch_sequences([ANN], "steps").tokens
    direct = backbone.batch_sequences([example.without_steps(None) for example in EXAMPLES], "answer").tokens
    for name, examples, tokens in (("stage0", [ANN], cot), ("final", EXAMPLES, direct)):
        plain = token_cross_entropy(*backbone.logits_at_labels(tokens))
        got = loss_of(method, examples, name)["ce"]
        assert got.num_items == plain.num_items
        torch.testing.assert_close(got.total, plain.total, rtol=1e-9, atol=1e-9)
    assert method.batch(EXAMPLES, at(method, "stage2")).num_latents.tolist() == [0] * len(EXAMPLES)
    config, questions = GenerateConfig(max_new_tokens=8), [example.question for example in EXAMPLES]
    expected = Direct(backbone, DirectConfig()).generate(questions, config)
    assert [got.text for got in method.generate(questions, config)] == [found.text for found in expected]


def test_without_curriculum_only_the_final_stage_is_trained() -> None:
    method = built(make_backbone("llama"), first_stage=4)
    (stage,) = method.stages()
    assert method.batch([ANN], stage).num_latents.tolist() == [6]
    assert method.batch([ANN], stage).target.ids[0, 0] == method.backbone.layout.close[0]


# mixed stages (3)


def test_mixed_stages_are_drawn_evenly_and_keyed() -> None:
    method = built(make_backbone("llama"), max_stage=2, uniform_prob=0.5)
    rows = [Example(id=str(i), question="1", steps=("<<1=1>>",) * 3, answer="1") for i in range(4000)]
    stage = at(method, "stage1")
    drawn = method.drawn_stages(rows, stage)
    counts = Counter(drawn)
    assert set(counts) == {0, 1, 2, 3}
    for k, expected in ((0, 500), (1, 2500), (2, 500), (3, 500)):
        assert abs(counts[k] - expected) < 5 * expected**0.5, k
    assert method.drawn_stages(rows[::-1], stage)[::-1] == drawn
    assert method.drawn_stages(rows[7:8], stage) == drawn[7:8]
    for name in ("epoch", "seed"):
        setattr(method, name, 1)
        assert method.drawn_stages(rows, stage) != drawn
        setattr(method, name, 0)
    assert built(make_backbone("llama")).drawn_stages(rows[:50], stage) == [1] * 50


@torch.no_grad()
def test_mixed_rows_have_the_loss_of_their_own_stage() -> None:
    method = built(make_backbone("gpt2"), max_stage=2, uniform_prob=1.0)
    rows = [Example(id=str(i), question=ANN.question, steps=ANN.steps, answer="10") for i in range(6)]
    stage = at(method, "stage1")
    drawn = method.drawn_stages(rows, stage)
    batch = method.batch(rows, stage)
    assert len(set(drawn)) > 2
    assert max(drawn) > 2, "beyond S: the whole chain is replaced, by as many latents as at S"
    assert batch.num_latents.tolist() == [2 * min(k, 2) for k in drawn]
    expected = [slow(method, row, k) for row, k in zip(rows, drawn, strict=True)]
    got = method(batch, stage)["ce"]
    assert got.num_items == sum(num for _, _, num in expected)
    assert float(got.total) == pytest.approx(sum(float(loss) for _, loss, _ in expected), rel=1e-10)


# generation (11.10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@torch.no_grad()
def test_generation_equals_recomputing_every_step(name: str) -> None:
    method = built(make_backbone(name), max_stage=2)
    backbone = method.backbone
    answers = method.generate(
        [e.question for e in EXAMPLES], GenerateConfig(max_new_tokens=6, batch_size=3), trace=True
    )
    for example, got in zip(EXAMPLES, answers, strict=True):
        latents = slow(method, example, 3)[0]
        assert got.num_latents == 4
        assert got.trace is not None
        torch.testing.assert_close(got.trace.embeds, torch.stack(latents).float(), rtol=1e-5, atol=1e-5)
        close = backbone.embed(torch.tensor(backbone.layout.close))
        embeds = torch.cat(
            [backbone.embed(torch.tensor(backbone.prompt(example.question))), *[z[None] for z in latents]]
        )
        embeds, ids = torch.cat([embeds, close]), list[int]()
        while len(ids) < 6 and (not ids or ids[-1] not in backbone.eos_ids):
            ids.append(int(backbone.model(inputs_embeds=embeds[None]).logits[0, -1].argmax()))
            embeds = torch.cat([embeds, backbone.embed(torch.tensor(ids[-1:]))])
        assert got.text == backbone.layout.decode([token for token in ids if token not in backbone.eos_ids])


# input that cannot be used


def test_a_curriculum_beyond_the_longest_chain_is_refused(tmp_path: Path) -> None:
    method = built(make_backbone("llama"))
    silent, two_steps = [EXAMPLES[2]] * 3, [replace(EXAMPLES[0], steps=("1", "2"))] * 3
    for rows, way_out in (
        (silent, "examples has more than 0; set method.first_stage=4 for"),
        (two_steps, "examples has more than 2; set method.max_stage=2 or method.first_stage=4 for"),
    ):
        with pytest.raises(ValueError, match=f"max_stage=3 reasoning steps, but none of 3 {way_out} no curriculum"):
            train_method(method, rows, TrainConfig(), folder=tmp_path / way_out, seed=0)
    method.prepare(at(method, "stage1"), [replace(EXAMPLES[0], steps=("1", "2", "3"))], tmp_path)
    method.prepare(at(method, "final"), silent, tmp_path)


def test_latents_count_towards_the_context() -> None:
    backbone = make_backbone("llama")
    for c in (20, 21):
        method = built(backbone, latents_per_step=c, max_stage=12)
        steps = Example(id="x", question="1", steps=("<<1=1>>",) * 3, answer="1")
        length = len(backbone.layout.encode(steps.without_steps(None)))
        room = backbone.context - length
        found = method.skip_reason(steps, at(method, "final"))
        assert found == (None if 12 * c <= room else "longer than the context")
        assert method.skip_reason(steps, at(method, "stage1")) is None
    assert 240 <= room < 252
    chain = Example(id="x", question="1", steps=("<<1+1=2>>",) * 60, answer="1")
    assert built(backbone).skip_reason(chain, at(built(backbone), "final")) is None
    assert built(backbone, uniform_prob=0.1).skip_reason(chain, at(built(backbone), "final")) is not None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"latents_per_step": 200},
            r"is 600 latents, more than the context of llama \(256 positions\) holds; lower it",
        ),
        ({"first_stage": 5}, r"method.first_stage must be at most method.max_stage \+ 1 = 4, .* got 5; lower it"),
    ],
)
def test_impossible_settings_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        built(make_backbone("llama"), **settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("latents_per_step", -1), ("max_stage", 0), ("final_share", 1), ("uniform_prob", 2), ("stage_epochs", [3])],
)
def test_settings_out_of_range_are_named(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"method\.{setting}"):
        parse({"method": {"name": "coconut", setting: value}})


# training (11.11)


@pytest.mark.slow
def test_the_curriculum_learns_sums_of_two_steps(tmp_path: Path) -> None:
    model = ModelConfig(hidden_size=64, num_layers=2, num_heads=2, mlp_size=128, device="cpu")
    method = built(Backbone.load(model), latents_per_step=1, max_stage=2, final_share=0.4)
    rows = [
        Example(
            id=f"{a}{b}{c}", question=f"n0={a}+{b}; n1=n0+{c}; n1?",
            steps=(f"<<{a}+{b}={a + b}>>", f"<<{a + b}+{c}={a + b + c}>>"), answer=str(a + b + c),
        )
        for a in range(5) for b in range(5) for c in range(8)
    ]  # fmt: skip
    config = TrainConfig(epochs=100, batch_size=50, lr=4e-3, log_every=100)
    train_method(method, rows, config, folder=tmp_path, seed=0)
    answers = method.generate([row.question for row in rows], GenerateConfig(max_new_tokens=6))
    correct = [answer.text.strip() == row.answer for row, answer in zip(rows, answers, strict=True)]
    assert sum(correct) > 0.95 * len(rows)


def small(preset: str, folder: Path) -> RunConfig:
    """The preset with a tiny model of its architecture, short data, and two optimiser steps in every stage."""
    whole = tree.preset("coconut", preset)
    usual, embedded = whole["method"], "id" not in whole["model"]
    task = {"name": whole["task"]["name"]}
    names = [*(f"stage{k}" for k in range(usual.get("first_stage", 0), usual["max_stage"] + 1)), "final"]
    changes: dict[str, Any] = {
        "method": {"name": "coconut"},
        "task": {"num_train": 300, "num_test": 3} | (task if embedded else {"name": "synth", "max_ops": 6}),
        "train": {"batch_size": 2, "accumulation": 2, "stages": {name: {"steps": 2} for name in names}},
        "generate": {"max_new_tokens": 4, "batch_size": 4},
    }
    if "start" in whole:
        changes["start"] = {"train": {"max_steps": 2, "batch_size": 2, "accumulation": 1}}
    architecture = "gpt2" if "gpt2" in preset else "llama"
    changes["model"] = small_model(None, folder) if embedded else small_model(architecture, folder)
    return parse(changes, preset=preset)


PRESETS = [  # the others differ from these in numbers, or in their start
    pytest.param(name, marks=[] if name in ("tiny", "graphs", "colar-llama1b") else pytest.mark.slow)
    for name in tree.presets("coconut")
]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    config = small(preset, tmp_path / "model")
    usual = tree.preset("coconut", preset)["method"]
    for key, value in usual.items():
        assert getattr(config.method, key) == (tuple(value) if isinstance(value, list) else value)
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2 * len(config.train.stages)
    records = read_evaluation(evaluate(EvalJob.of(run, limit=3))).records
    num_latents = config.method.latents_per_step * config.method.max_stage
    assert [record.num_latents for record in records] == [num_latents] * 3 * config.generate.samples
