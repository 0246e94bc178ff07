"""SIM-CoT against arithmetic worked by hand and a loop without cache."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.config import GenerateConfig, LoraConfig, ModelConfig, RunConfig, TrainConfig, parse, tree
from latbench.decoding.rule import RecordedLatents
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.measures.inspect import inspect
from latbench.method import Losses, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.runs.train import train
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.trainer import set_trainable, train_method
from methods import sim_cot
from methods.sim_cot import SimCot, SimCotConfig, StepTargets, assigned_steps
from tests.conftest import make_backbone, small_model

EXAMPLES = [
    Example(
        id="four",
        question="n0 = 3 * 4; n0 - 2 = ?",
        steps=("<<3*4=12>>", "<<12-2=10>>", "<<10-0=10>>", "<<10*1=10>>"),
        answer="10",
    ),
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


def built(backbone: Backbone, **settings: Any) -> SimCot:
    """With a decoder that is no copy any more."""
    method = SimCot(backbone, SimCotConfig(**{"max_stage": 2, **settings})).eval()
    method.build_auxiliary()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return method


def at(method: SimCot, name: str) -> Stage:
    return next(stage for stage in method.stages() if stage.name == name)


def loss_of(method: SimCot, examples: list[Example], name: str) -> Losses:
    stage = at(method, name)
    losses: Losses = method(method.batch(examples, stage), stage)
    return losses


def extra(losses: Losses) -> float:
    """The steps' part of the objective."""
    parts = {name: term for name, term in losses.items() if name != "ce"}
    return sum(term.weight * float(term.total) / max(term.num_items, 1) for term in parts.values())


# assignment (9.1, 9.12)


@pytest.mark.parametrize(
    ("steps", "num", "expected"),
    [
        ("abcde", 3, ["a", "b", "cde"]),
        ("a", 3, ["a", "", ""]),
        ("abc", 3, ["a", "b", "c"]),
        ("", 2, ["", ""]),
        ("abc", 1, ["abc"]),
        ("", 0, []),
    ],
)
def test_a_thought_gets_a_step_and_the_last_all_that_are_left(steps: str, num: int, expected: list[str]) -> None:
    assert assigned_steps(steps, num) == expected


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_the_targets_of_each_stage(layout: str) -> None:
    method = built(make_backbone("llama", layout=layout), max_stage=3, latents_per_step=1)
    five = Example(id="x", question="?", steps=("<<1=1>>", "<<2=2>>", "<<3=3>>", "<<4=4>>", "<<5=5>>"), answer="5")

    def texts(example: Example, k: int) -> list[str]:
        return [method.backbone.layout.decode(ids) for ids in method.step_ids(example, k)]

    assert texts(five, 0) == []
    assert texts(five, 2) == ["<<1=1>>", "<<2=2>>"]
    assert texts(five, 3) == ["<<1=1>>", "<<2=2>>", "<<3=3>>"], "the rest is still written out"
    assert texts(five, 4) == ["<<1=1>>", "<<2=2>>", "<<3=3>>\n<<4=4>>\n<<5=5>>"]
    answer = "7" if layout == "default" else "### 7"
    assert texts(EXAMPLES[1], 2) == ["<<4+3=7>>", answer]
    assert texts(EXAMPLES[1], 4) == ["<<4+3=7>>", answer, answer]
    for fill, expected in (("equation", "<<7=7>>"), ("none", "")):
        method = built(method.backbone, max_stage=3, fill=fill)
        assert texts(EXAMPLES[1], 4) == ["<<4+3=7>>", expected, expected]


def test_targets_are_the_tokens_and_one_eos() -> None:
    targets = StepTargets.of([[[5, 6], []], [[7], [8, 9, 10]]], eos=1)
    assert targets.rows.tolist() == [0, 1, 1]
    assert targets.thoughts.tolist() == [0, 0, 1]
    labels = [row[row != IGNORE_INDEX].tolist() for row in targets.tokens.labels]
    assert labels == [[5, 6, 1], [7, 1], [8, 9, 10, 1]]
    assert targets.num_items(2, "rows") == {"step1": 2, "step2": 1}
    assert targets.num_items(3, "tokens") == {"step1": 5, "step2": 4, "step3": 0}


# the loss: parity (9.4), reduction (9.3), rows without a target


def slow(method: SimCot, example: Example, k: int) -> list[list[float]]:
    """Losses of the tokens of each thought at stage k; the whole prefix anew for every latent."""
    backbone, config, found = method.backbone, method.config, list[list[float]]()
    embeds = backbone.embed(torch.tensor(backbone.prompt(example.question)))
    for ids in method.step_ids(example, k):
        start = len(embeds)
        for _ in range(config.latents_per_step):
            hidden = backbone.model(inputs_embeds=embeds[None], output_hidden_states=True).hidden_states[-1][0, -1:]
            embeds = torch.cat([embeds, hidden])
        if not ids:
            found.append([])
            continue
        text = [*ids, backbone.layout.eos]
        fed = torch.cat([embeds[start:], backbone.embed(torch.tensor(text))])
        scores = method.decoder.backbone.model(inputs_embeds=fed[None]).logits[0].log_softmax(-1)
        before = config.latents_per_step - 1
        found.append([-float(scores[before + i, token]) for i, token in enumerate(text)])
    return found


@pytest.mark.parametrize(("name", "layout"), PARITY)
@pytest.mark.parametrize("settings", [{}, {"latents_per_step": 1, "max_stage": 3, "fill": "none"}])
@torch.no_grad()
def test_the_steps_loss_equals_a_loop_without_cache(name: str, layout: str, settings: dict[str, Any]) -> None:
    method = built(make_backbone(name, layout=layout), step_weight=0.7, **settings)
    for stage in method.stages():
        losses = loss_of(method, EXAMPLES, stage.name)
        num = min(stage.index, method.config.max_stage)
        rows = [slow(method, example, stage.index) for example in EXAMPLES]
        assert set(losses) == {"ce", *(f"step{i + 1}" for i in range(num))}
        for i in range(num):
            each = [row[i] for row in rows if row[i]]
            term = losses[f"step{i + 1}"]
            assert term.num_items == len(each)
            assert term.weight == pytest.approx(0.7 / num)
            assert float(term.total) == pytest.approx(sum(map(sum, each)), rel=1e-10)
        coconut = method.text_loss(method.batch(EXAMPLES, stage))
        torch.testing.assert_close(losses["ce"].total, coconut.total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("reduction", "expected"), [("rows", (3 + 1) / 2), ("tokens", (1 + 0.5) / 2)])
def test_the_worked_reduction_is_met(reduction: Any, expected: float) -> None:
    """Thought 1: steps of 2 and 4 tokens, each of loss 1; thought 2: one row with 2 tokens of loss 1/2."""
    method = built(make_backbone("llama"))
    targets = StepTargets.of([[[5], [6]], [[7, 8, 9], []]], eos=1)
    mask, size = targets.tokens.mask, 40
    losses = torch.where(targets.thoughts[:, None].expand_as(mask)[mask] == 0, 1.0, 0.5)
    logits = torch.zeros(len(losses), size)
    right = torch.log((size - 1) / (losses.exp() - 1))  # of the label, against zeros
    logits[torch.arange(len(losses)), targets.tokens.labels[mask]] = right
    method.decoder.forward = lambda *_: logits  # type: ignore[method-assign]
    num_items = targets.num_items(2, reduction)
    got = method.decoder.losses(
        torch.zeros(()), targets, method.backbone.embed, num_items=num_items, num_thoughts=2, weight=1 / 2
    )
    assert extra(got) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_row_without_targets_moves_no_other() -> None:
    method = built(make_backbone("llama"), fill="none")
    none, two = EXAMPLES[2], EXAMPLES[3]
    alone, together = loss_of(method, [two], "final"), loss_of(method, [none, two], "final")
    for name in ("step1", "step2"):
        assert together[name].num_items == 1
        torch.testing.assert_close(together[name].total, alone[name].total, rtol=1e-10, atol=1e-10)
    nothing = loss_of(method, [none], "final")
    assert {name: (float(nothing[name].total), nothing[name].num_items) for name in ("step1", "step2")} == {
        "step1": (0, 0),
        "step2": (0, 0),
    }
    assert float(nothing.objective()) == pytest.approx(float(nothing["ce"].total) / nothing["ce"].num_items)


@torch.no_grad()
def test_mixed_rows_are_decoded_as_far_as_they_think() -> None:
    method = built(make_backbone("gpt2"), uniform_prob=1.0)
    rows = [Example(id=str(i), question="1+1?", steps=EXAMPLES[0].steps, answer="10") for i in range(12)]
    stage = at(method, "stage1")
    drawn = method.drawn_stages(rows, stage)
    assert {0, 1} <= set(drawn)
    assert max(drawn) > 2
    losses = method(method.batch(rows, stage), stage)
    expected = [slow(method, row, k) for row, k in zip(rows, drawn, strict=True)]
    for i in range(2):
        each = [row[i] for row in expected if len(row) > i]
        assert losses[f"step{i + 1}"].num_items == len(each)
        assert float(losses[f"step{i + 1}"].total) == pytest.approx(sum(map(sum, each)), rel=1e-10)
    zero = [row for row, k in zip(rows, drawn, strict=True) if k == 0]
    assert extra(method(method.batch(zero, stage), stage)) == 0


# what the decoder sees (9.5, 9.7)


@torch.no_grad()
def test_the_decoder_sees_one_thought_and_the_step_so_far() -> None:
    method = built(make_backbone("llama"))
    targets = method.batch(EXAMPLES, at(method, "final")).steps
    z = torch.randn(len(EXAMPLES), 2, 2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = targets.tokens.mask
    own = ((targets.rows == 0) & (targets.thoughts == 1))[:, None].expand_as(mask)[mask]
    before = method.decoder(z, targets, method.backbone.embed)
    for row, thought, vector in ((0, 1, 0), (0, 1, 1)):
        other = z.clone()
        other[row, thought, vector] += 1
        changed = (method.decoder(other, targets, method.backbone.embed) - before).abs().amax(-1) > 1e-6
        assert torch.equal(changed, own), "the thought's own step, all of it, and no other"
    targets.tokens.ids[(targets.rows == 0) & (targets.thoughts == 1), 0] = 9
    changed = (method.decoder(z, targets, method.backbone.embed) - before).abs().amax(-1) > 1e-6
    places = own.nonzero()[:, 0]
    assert torch.equal(changed.nonzero()[:, 0], places[1:]), "a token is seen by those after it"


@pytest.mark.parametrize("name", ["llama_untied", "llama"])
def test_steps_are_read_through_the_main_table(name: str) -> None:
    method = built(make_backbone(name))
    stage = at(method, "final")
    with torch.no_grad():
        before = extra(loss_of(method, EXAMPLES, "final"))
        own = method.decoder.backbone.model.get_input_embeddings()
        if name == "llama_untied":
            own.weight += 1
            assert extra(loss_of(method, EXAMPLES, "final")) == before
        main = method.backbone.model.get_input_embeddings().weight
        targets = method.batch(EXAMPLES, stage).steps
        z = torch.randn(len(EXAMPLES), 2, 2, 32, dtype=torch.float64)
        logits = method.decoder(z, targets, method.backbone.embed)
        main[targets.tokens.ids[0, 0]] += 1
        assert not torch.allclose(method.decoder(z, targets, method.backbone.embed), logits, atol=1e-3)
    trained = {name for name, _ in method.trainable_parameters(stage)}
    table = "auxiliary.decoder.backbone.model.model.embed_tokens.weight"
    assert (table in trained) == (name == "llama"), "tied: it is the decoder's head"
    assert "auxiliary.decoder.backbone.model.model.norm.weight" in trained


def test_the_decoder_is_a_model_of_its_own() -> None:
    method = SimCot(make_backbone("gpt2"), SimCotConfig())
    method.build_auxiliary()
    main = {p.data_ptr() for p in method.backbone.parameters()}
    own = dict(method.decoder.named_parameters())
    assert not main & {p.data_ptr() for p in own.values()}
    for name, parameter in method.backbone.named_parameters():
        assert torch.equal(own[f"backbone.{name}"], parameter)
    assert method.decoder.backbone.tokenizer is method.backbone.tokenizer


def test_the_decoder_of_an_adapted_model_is_trained_whole() -> None:
    backbone = make_backbone("llama", lora=LoraConfig(rank=2))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    method = SimCot(backbone, SimCotConfig(max_stage=1))
    method.build_auxiliary()
    decoder = method.decoder.backbone
    assert not any("lora" in name for name, _ in decoder.named_parameters())
    assert len(decoder.model.get_output_embeddings()._forward_pre_hooks) == 1
    ids, positions = torch.tensor([[5, 6, 7]]), torch.arange(3)[None]
    main, copied = (b.causal(b.embed(ids), positions, torch.ones(1, 3).bool()).logits for b in (backbone, decoder))
    torch.testing.assert_close(main.float(), copied.float(), rtol=1e-4, atol=1e-4)
    stage = at(method, "final")
    trained = {name for name, _ in method.trainable_parameters(stage)}
    assert {f"auxiliary.decoder.{name}" for name, _ in method.decoder.named_parameters()} <= trained
    set_trainable(method, stage)
    loss_of(method, EXAMPLES, "final").objective().backward()
    assert all(p.grad is not None for p in method.decoder.parameters())


# gradients (9.6), passes (9.10)


def test_the_steps_teach_the_main_model_through_all_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    method = built(make_backbone("llama_untied"))
    seen: list[Any] = []

    class Watched(RecordedLatents):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append(self)

    monkeypatch.setattr(sim_cot, "RecordedLatents", Watched)
    losses = loss_of(method, EXAMPLES[:1], "final")
    second = losses["step2"].total
    gradients = torch.autograd.grad(second, seen[0].fed, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    table = method.backbone.model.get_input_embeddings().weight
    (rows,) = torch.autograd.grad(second, table, retain_graph=True)
    question = set(method.backbone.encode(EXAMPLES[0].question)) - {
        i for part in method.step_ids(EXAMPLES[0], 3) for i in part
    }
    assert question
    assert all(rows[token].any() for token in question)
    base = method.text_loss(method.batch(EXAMPLES[:1], at(method, "final")))
    parameters = list(method.backbone.parameters())
    for got, expected in zip(
        torch.autograd.grad(losses["ce"].total, parameters), torch.autograd.grad(base.total, parameters), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_stage_0_leaves_the_decoder_alone() -> None:
    method = built(make_backbone("llama"))
    names = [name for name, _ in method.trainable_parameters(at(method, "stage0"))]
    assert names
    assert all(name.startswith("backbone.") for name in names)
    assert set(loss_of(method, EXAMPLES, "stage0")) == {"ce"}


def test_a_training_step_runs_the_decoder_once() -> None:
    method = built(make_backbone("llama"))
    passes = {"main": 0, "decoder": 0}

    def count(name: str) -> Any:
        return lambda *_: passes.update({name: passes[name] + 1})

    method.backbone.model.register_forward_pre_hook(count("main"))
    method.decoder.backbone.model.register_forward_pre_hook(count("decoder"))
    loss_of(method, EXAMPLES, "final")
    assert passes == {"main": 6, "decoder": 1}


# inference (9.8), reading


def test_inference_is_the_same_without_the_decoder(tmp_path: Path) -> None:
    method = built(make_backbone("gpt2"))
    config, questions = GenerateConfig(max_new_tokens=5), [example.question for example in EXAMPLES]
    expected = method.generate(questions, config)
    assert [answer.num_latents for answer in expected] == [4] * len(questions)
    method.auxiliary = torch.nn.ModuleDict()
    assert method.generate(questions, config) == expected
    assert method.read_latents(torch.zeros(4, 32)) is None


def test_a_checkpoint_keeps_the_decoder_for_those_who_ask(tmp_path: Path) -> None:
    method = built(Backbone.load(ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32, device="cpu")))
    checkpoint.save(method, tmp_path / "checkpoint")
    assert not checkpoint.load(tmp_path / "checkpoint").auxiliary
    loaded = checkpoint.load(tmp_path / "checkpoint", auxiliary=True)
    latents = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert loaded.read_latents(latents) == method.read_latents(latents)
    for name, parameter in method.decoder.named_parameters():
        assert torch.equal(dict(loaded.auxiliary["decoder"].named_parameters())[name], parameter)


@pytest.mark.parametrize("name", ["gpt2", "llama_untied"])
@torch.no_grad()
def test_reading_is_greedy_decoding_from_a_thought_alone(name: str) -> None:
    method = built(make_backbone(name))
    latents = 3 * torch.randn(6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    texts = method.read_latents(latents)
    assert texts is not None
    assert [bool(text) for text in texts[::2]] == [False] * 3
    for thought, text in enumerate(texts[1::2]):
        embeds, ids = latents[2 * thought : 2 * thought + 2], list[int]()
        while len(ids) < sim_cot.MAX_READ and (not ids or ids[-1] not in method.backbone.eos_ids):
            ids.append(int(method.decoder.backbone.model(inputs_embeds=embeds[None]).logits[0, -1].argmax()))
            embeds = torch.cat([embeds, method.backbone.embed(torch.tensor(ids[-1:]))])
        ids = [token for token in ids if token not in method.backbone.eos_ids]
        assert text == method.backbone.layout.decode(ids)
    assert method.read_latents(latents[:5]) == [*texts[:4], ""]
    assert method.read_latents(latents[:0]) == []


# input that cannot be used


def test_data_without_steps_are_refused(tmp_path: Path) -> None:
    method = SimCot(make_backbone("llama"), SimCotConfig(first_stage=6))
    sentence = r"method 'sim_cot' decodes latents into reasoning steps, but none of 2 examples has one; use other data"
    with pytest.raises(ValueError, match=sentence):
        train_method(method, [EXAMPLES[2]] * 2, TrainConfig(), folder=tmp_path, seed=0)


def test_the_last_thoughts_text_must_fit_the_context() -> None:
    backbone = make_backbone("llama")
    method = built(backbone)
    steps = (backbone.context - 2 - 1) // 6 + 2  # a step is 5 tokens and the joiner
    long = Example(id="x", question="1", steps=("<<1=1>>",) * steps, answer="1")
    found = len(method.step_ids(long, 3)[1]) + 2
    assert found > backbone.context - 6
    assert (method.skip_reason(long, at(method, "final")) is None) == (found <= backbone.context)
    longer = Example(id="x", question="1", steps=("<<1=1>>",) * (steps + 2), answer="1")
    assert method.skip_reason(longer, at(method, "final")) == "longer than the context"
    assert method.skip_reason(EXAMPLES[0], at(method, "final")) is None


@pytest.mark.parametrize(
    ("setting", "value"), [("latents_per_step", 0), ("step_weight", -1), ("reduction", "mean"), ("fill", "x")]
)
def test_settings_out_of_range_are_named(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"method\.{setting}"):
        parse({"method": {"name": "sim_cot", setting: value}})


# training (9.9, 9.11)


@pytest.mark.slow
def test_the_decoder_recovers_the_steps(tmp_path: Path) -> None:
    model = ModelConfig(hidden_size=64, num_layers=2, num_heads=2, mlp_size=128, device="cpu")
    method = SimCot(Backbone.load(model), SimCotConfig(latents_per_step=1, max_stage=2, first_stage=1))
    rows = [
        Example(
            id=f"{a}{b}{c}", question=f"n0={a}+{b}; n1=n0+{c}; n1?",
            steps=(f"<<{a}+{b}={a + b}>>", f"<<{a + b}+{c}={a + b + c}>>"), answer=str(a + b + c),
        )
        for a in range(4) for b in range(4) for c in range(4)
    ]  # fmt: skip
    config = TrainConfig(epochs=75, batch_size=16, lr=4e-3, log_every=100)  # 300 steps
    train_method(method, rows, config, folder=tmp_path, seed=0)
    answers = method.generate([row.question for row in rows], GenerateConfig(max_new_tokens=6), trace=True)
    read = [method.read_latents(answer.trace.embeds) for answer in answers if answer.trace]
    first = [texts is not None and texts[0] == row.steps[0] for texts, row in zip(read, rows, strict=True)]
    assert sum(first) > 0.9 * len(rows)


def small(preset: str, folder: Path) -> RunConfig:
    """The preset with a tiny model of its architecture, short data, and two optimiser steps in every stage."""
    usual = tree.preset("sim_cot", preset)["method"]
    names = [*(f"stage{k}" for k in range(1, usual["max_stage"] + 1)), "final"]
    short = {"max_steps": 2, "batch_size": 2, "accumulation": 1}
    start: dict[str, Any] = {"train": short}
    if preset == "gpt2":
        start["start"] = {"train": short}
    changes: dict[str, Any] = {
        "method": {"name": "sim_cot"},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "train": {
            "batch_size": 2, "accumulation": 2, "log_every": 1, "stages": {name: {"steps": 2} for name in names},
        },
        "generate": {"max_new_tokens": 4, "batch_size": 4},
        "start": start,
    }  # fmt: skip
    architecture = "gpt2" if "gpt2" in preset else "llama"
    changes["model"] = small_model(None if preset == "tiny" else architecture, folder)
    return parse(changes, preset=preset)


PRESETS = [pytest.param(name, marks=[] if name == "tiny" else pytest.mark.slow) for name in tree.presets("sim_cot")]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    config = small(preset, tmp_path / "model")
    for key, value in tree.preset("sim_cot", preset)["method"].items():
        assert getattr(config.method, key) == (tuple(value) if isinstance(value, list) else value)
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2 * len(config.train.stages)
    for index, name in enumerate(config.train.stages):
        (log,) = (run.folder / "stages").glob(f"{index}-{name}/log.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        logged = [value for line in lines for key, value in line.items() if "step1" in key]
        assert logged
        assert all(math.isfinite(value) and value > 0 for value in logged)
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records
    num_latents = config.method.latents_per_step * config.method.max_stage
    assert [record.num_latents for record in records] == [num_latents] * 3
    texts = [step.text for step in inspect(EvalJob.of(run, "synth", limit=3)).latents]
    assert len(texts) == num_latents
    assert all(text is not None for text in texts), "the command `inspect` reads them"
