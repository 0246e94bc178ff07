"""CODI against arithmetic worked by hand and a loop without cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from latbench.config import GenerateConfig, LoraConfig, ModelConfig, RunConfig, TrainConfig, parse, tree
from latbench.decoding.rule import RecordedLatents
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.method import Losses, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.model.loading import with_lora
from latbench.runs.train import train
from latbench.task import Example
from latbench.training.losses import hidden_distillation, token_cross_entropy
from latbench.training.trainer import set_trainable, train_method
from methods import codi
from methods.codi import Codi, CodiConfig
from tests.conftest import make_backbone, small_model

BackboneOf = Callable[..., Backbone]
STAGE = Stage(name="codi")
ANN = Example(id="ann", question="3*4-2?", steps=("<<3*4=12>>", "<<12-2=10>>"), answer="10")
EXAMPLES = [
    ANN,
    Example(id="one", question="n0 = 4 + 3; n0 = ?", steps=("<<4+3=7>>",), answer="7"),
    Example(
        id="long",
        question="n0 = n1 + 1; n1 = n2 + 2; n2 = 5; n0 = ?",
        steps=("<<5=5>>", "<<5+2=7>>", "<<7+1=8>>"),
        answer="-8",
    ),
]
PARITY = [
    ("gpt2", "default"),
    ("llama", "default"),
    ("qwen2", "default"),
    ("gpt2", "plain_hash_answer"),
    ("llama", "plain_hash_answer"),
]


def built(backbone: Backbone, **settings: Any) -> Codi:
    torch.manual_seed(3)
    return Codi(backbone, CodiConfig(**settings)).eval()


def loss_of(method: Codi, examples: list[Example]) -> Losses:
    losses: Losses = method(method.batch(examples, STAGE), STAGE)
    return losses


def mean(losses: Losses, name: str) -> float:
    return float(losses[name].total.detach()) / losses[name].num_items


@dataclass
class Seen:
    """What reached the distillation: (batch, hidden) per layer."""

    student: list[Tensor] = field(default_factory=list)
    teacher: list[Tensor] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Seen]:
    seen = Seen()

    def distil(student: list[Tensor], teacher: list[Tensor], **options: Any) -> Any:
        seen.student, seen.teacher = student, teacher
        return hidden_distillation(student, teacher, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codi, "hidden_distillation", distil)
        yield seen


# the distillation loss (12.3)

T = [torch.tensor([[1.0, 3], [5, 7]]), torch.tensor([[0.0, 2], [0, 2]])]
S = [T[0] + 1, T[1] + 0.5]


@pytest.mark.parametrize(("divide", "expected"), [("loss", 0.150951), ("activations", 0.084375)])
def test_the_worked_distance_is_met(divide: Any, expected: float) -> None:
    term = hidden_distillation(S, T, divide=divide)
    assert term.num_items == 2
    assert float(term.total) / 2 == pytest.approx(expected, abs=1e-6)


def test_the_deviation_of_a_layer_is_unbiased_over_rows_and_entries() -> None:
    by_hand = torch.tensor([2.58199, 1.15470])
    given = hidden_distillation(S, T, sigma=by_hand)
    torch.testing.assert_close(given.total, hidden_distillation(S, T).total, rtol=1e-5, atol=1e-6)
    alone = hidden_distillation([s[:1] for s in S], [t[:1] for t in T])
    assert not torch.isclose(alone.total, given.total / 2, rtol=1e-2)


def test_far_states_count_linearly() -> None:
    term = hidden_distillation([T[0] + 3], [T[0]], sigma=torch.tensor([2.0]))
    assert float(term.total) == pytest.approx(2 * 2.5 / 2)


def test_rows_add_up_under_one_deviation() -> None:
    sigma = torch.tensor([2.0, 3.0])
    rows = [hidden_distillation([s[i : i + 1] for s in S], [t[i : i + 1] for t in T], sigma=sigma) for i in range(2)]
    torch.testing.assert_close(rows[0].total + rows[1].total, hidden_distillation(S, T, sigma=sigma).total)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = [s.clone().requires_grad_() for s in S], [t.clone().requires_grad_() for t in T]
    hidden_distillation(student, teacher).total.backward()
    assert all(s.grad is not None and s.grad.abs().sum() > 0 for s in student)
    assert all(t.grad is None for t in teacher)


# text and positions (12.1, 12.2)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_the_teacher_reads_all_but_the_last_step(layout: str) -> None:
    backbone = make_backbone("llama", layout=layout)
    method = built(backbone)
    batch = method.batch([ANN, EXAMPLES[1]], STAGE)
    texts = [
        backbone.tokenizer.decode(ids[:length], skip_special_tokens=False).replace(" ", "")
        for ids, length in zip(batch.teacher.ids.tolist(), batch.teacher.lengths.tolist(), strict=True)
    ]
    eos = backbone.tokenizer.eos_token
    if layout == "default":
        assert texts == [
            f"3*4-2?<think><<3*4=12>></think>10{eos}",
            f"n0=4+3;n0=?<think></think>7{eos}",
        ]
    else:
        assert texts == [f"3*4-2?\n<<3*4=12>>\n###10{eos}", f"n0=4+3;n0=?\n###7{eos}"]
    whole = built(backbone, drop_last_step=False).batch([ANN], STAGE)
    joined = backbone.layout.encode(ANN)
    assert whole.teacher.ids[0].tolist() == [
        *joined.prompt, *joined.steps, *joined.close, *joined.answer, joined.eos,
    ]  # fmt: skip


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_the_distilled_token_predicts_the_first_of_the_answer(layout: str) -> None:
    """Tokens are told apart by their embeddings, the first entry of the layers; the marker `###` has three."""
    backbone = make_backbone("llama", layout=layout)
    method = built(backbone)
    batch = method.batch(EXAMPLES, STAGE)
    close = list(backbone.layout.close)
    with watched() as seen, torch.no_grad():
        method(batch, STAGE)
    marker = backbone.embed(torch.tensor(close[-1]))
    for row, example in enumerate(EXAMPLES):
        first = backbone.layout.encode(example).answer[0]
        assert batch.target.labels[row, len(close)] == first
        assert batch.teacher.labels[row, batch.before_answer[row]] == first
        assert batch.target.ids[row, : len(close)].tolist() == close
        assert torch.equal(seen.student[0][row], marker)
        assert torch.equal(seen.teacher[0][row], marker)


def test_what_is_supervised() -> None:
    """Student: answer and EOS. Teacher: everything after the question, the close marker included."""
    backbone = make_backbone("llama")
    method = built(backbone)
    batch = method.batch(EXAMPLES, STAGE)
    for row, example in enumerate(EXAMPLES):
        pieces = backbone.layout.encode(method.taught(example))
        answer = [*pieces.answer, pieces.eos]
        student = batch.target.labels[row]
        teacher = batch.teacher.labels[row]
        assert student[student != IGNORE_INDEX].tolist() == answer
        assert teacher[teacher != IGNORE_INDEX].tolist() == [*pieces.steps, *pieces.close, *answer]
    assert batch.num_items["kd"] == len(EXAMPLES)


# parity (12.8) and what the losses must not depend on (12.9)


def slow(method: Codi, example: Example) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Token losses and all layers at the distilled token of student and teacher; everything anew at every step."""
    backbone = method.backbone
    layout = backbone.layout

    def run(embeds: Tensor) -> Any:
        return backbone.model(inputs_embeds=embeds[None], output_hidden_states=True)

    def of(ids: Any) -> Tensor:
        return backbone.embed(torch.tensor([*ids], dtype=torch.long))

    def token_losses(logits: Tensor, ids: list[int]) -> Tensor:
        return -logits[-len(ids) - 1 : -1].log_softmax(-1)[range(len(ids)), ids]

    prompt = layout.prompt(example.question)
    answer = [*layout.encode(example).answer, layout.eos]
    embeds = of(prompt)
    for _ in range(method.config.num_latents):
        hidden = run(embeds).hidden_states[-1][0, -1:]
        if method.config.projection:
            first, second = method.heads["projection"][0], method.heads["projection"][2]  # type: ignore[index]
            x = hidden @ first.weight.T + first.bias
            x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
            hidden = x @ second.weight.T + second.bias
            if method.config.projection_norm:
                hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
                norm = method.heads["projection"][3]  # type: ignore[index]
                hidden = hidden * norm.weight + norm.bias
        embeds = torch.cat([embeds, hidden])
    student = run(torch.cat([embeds, of(layout.close), of(answer)]))
    before = len(embeds) + len(layout.close) - 1
    steps = layout.steps(example.steps[: -1 if method.config.drop_last_step else None])
    after = [*steps, *layout.close, *answer]
    teacher = run(of([*prompt, *after]))
    at = len(prompt) + len(steps) + len(layout.close) - 1
    return (
        token_losses(student.logits[0], answer),
        [layer[0, before] for layer in student.hidden_states],
        token_losses(teacher.logits[0], after),
        [layer[0, at] for layer in teacher.hidden_states],
    )


@pytest.mark.parametrize(
    ("name", "layout", "settings"),
    [
        *((name, layout, {}) for name, layout in PARITY),
        ("llama", "default", {"num_latents": 2, "projection": False}),
        ("gpt2", "default", {"projection_norm": False, "projection_size": 11, "divide": "activations"}),
        ("qwen2", "default", {"num_latents": 0, "drop_last_step": False}),
    ],
)
def test_the_losses_and_their_gradients_equal_a_loop_without_cache(
    name: str, layout: str, settings: dict[str, Any]
) -> None:
    method = built(make_backbone(name, layout=layout), **{"num_latents": 3, **settings})
    losses = loss_of(method, EXAMPLES)
    students, states, teachers, targets = zip(*(slow(method, example) for example in EXAMPLES), strict=True)
    distance = torch.zeros((), dtype=torch.float64)
    for layer in range(len(states[0])):
        s, t = torch.stack([row[layer] for row in states]), torch.stack([row[layer] for row in targets]).detach()
        sigma = ((t - t.mean()) ** 2).sum().div(t.numel() - 1).sqrt()
        x = (s - t).abs() / (sigma if method.config.divide == "activations" else 1)
        each = torch.where(x < 1, x**2 / 2, x - 0.5) / (sigma if method.config.divide == "loss" else 1)
        distance = distance + each.mean() / len(states[0])
    ce, teacher_ce = torch.cat(students), torch.cat(teachers)
    for term, expected in (("ce", ce), ("teacher_ce", teacher_ce)):
        assert losses[term].num_items == len(expected)
        assert mean(losses, term) == pytest.approx(float(expected.detach().mean()), rel=1e-10)
    assert mean(losses, "kd") == pytest.approx(float(distance.detach()), rel=1e-8)
    parameters = list(method.parameters())
    got = torch.autograd.grad(losses.objective(), parameters, allow_unused=True, materialize_grads=True)
    whole = ce.mean() + distance + teacher_ce.mean()
    for one, other in zip(
        got, torch.autograd.grad(whole, parameters, allow_unused=True, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # Llama norms are float32


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2_sliding"])
@torch.no_grad()
def test_a_row_sees_neither_its_neighbours_nor_padding(name: str) -> None:
    """The distance too, once every row is measured by the deviation of the whole batch."""
    method = built(make_backbone(name))
    longer = Example(id="longer", question="x " * 20, steps=("<<1+1=2>>",) * 6, answer="123456")
    with watched() as together:
        whole = loss_of(method, [*EXAMPLES, longer])["kd"]
    sigma = torch.stack([t.std() for t in together.teacher])
    total = torch.zeros((), dtype=torch.float64)
    for row, example in enumerate([*EXAMPLES, longer]):
        with watched() as alone:
            loss_of(method, [example])
        for batched, single in zip(together.student + together.teacher, alone.student + alone.teacher, strict=True):
            torch.testing.assert_close(batched[row : row + 1], single, rtol=1e-8, atol=1e-8)
        total += hidden_distillation(alone.student, alone.teacher, sigma=sigma).total
    torch.testing.assert_close(total, whole.total, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_the_dropped_step_changes_nothing() -> None:
    method = built(make_backbone("llama"))
    other = Example(id="ann", question=ANN.question, steps=(ANN.steps[0], "<<1+1=2>>"), answer=ANN.answer)
    assert loss_of(method, [other]) == loss_of(method, [ANN])
    whole = built(make_backbone("llama"), drop_last_step=False)
    assert abs(mean(loss_of(whole, [other]), "teacher_ce") - mean(loss_of(whole, [ANN]), "teacher_ce")) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_layers_begin_with_the_embeddings_and_end_after_the_final_norm(name: str) -> None:
    backbone = make_backbone(name)
    batch = backbone.batch_rollout(EXAMPLES)
    fed = backbone.feed(backbone.prefill(batch.question), batch.target, layers=True)
    sequences = backbone.batch_sequences(EXAMPLES, "steps").tokens
    whole = backbone.causal(backbone.embed(sequences.ids), sequences.positions, sequences.mask, layers=True)
    assert fed.layers is not None
    assert whole.layers is not None
    assert len(fed.layers) == len(whole.layers) == backbone.text_config.num_hidden_layers + 1
    assert torch.equal(fed.layers[-1], fed.hidden)
    assert torch.equal(whole.layers[-1][sequences.mask], whole.hidden)
    if name != "gpt2":  # which adds positions
        assert torch.equal(fed.layers[0], backbone.embed(batch.target.ids))
    for row, length in enumerate(batch.question.lengths.tolist()):
        tail = slice(length, int(sequences.lengths[row]))
        for cached, uncached in zip(fed.layers, whole.layers, strict=True):
            num = tail.stop - tail.start
            torch.testing.assert_close(cached[row, :num], uncached[row, tail], rtol=1e-8, atol=1e-8)


# gradients (12.4, 12.5, 12.11)


def test_distillation_reaches_the_projection_but_not_the_teachers_own_tokens() -> None:
    method = built(make_backbone("llama_untied"))
    example = Example(id="x", question="1+1", steps=("<<7*8=56>>", "<<0=0>>"), answer="2")
    table = method.backbone.model.get_input_embeddings().weight
    own = set(method.backbone.layout.steps(example.steps[:1])) - set(method.backbone.layout.prompt("1+1"))
    losses = loss_of(method, [example])
    parameters = [table, *method.heads.parameters()]
    rows, *heads = torch.autograd.grad(losses["kd"].total, parameters, retain_graph=True)
    assert own
    assert all(not rows[token].any() for token in own)
    assert all(gradient.any() for gradient in heads)
    (taught,) = torch.autograd.grad(losses["teacher_ce"].total, table)
    assert all(taught[token].any() for token in own), "its own loss does reach them"


def test_the_embedding_layer_only_shifts_the_mean() -> None:
    """The same token: equal without absolute positions, and a constant of the positions where they are added."""
    with watched() as seen, torch.no_grad():
        loss_of(built(make_backbone("llama")), EXAMPLES)
    assert torch.equal(seen.student[0], seen.teacher[0])
    frozen = make_backbone("gpt2", lora=LoraConfig(rank=2, train_markers=False))
    with watched() as seen:
        loss_of(built(frozen), EXAMPLES)
    assert not torch.equal(seen.student[0], seen.teacher[0])
    assert not seen.student[0].requires_grad
    assert seen.student[1].requires_grad


@pytest.mark.parametrize("train_markers", [False, True])
def test_marker_rows_are_frozen_on_request(train_markers: bool) -> None:
    bare = make_backbone("llama_untied")
    ids = [*bare.layout.open, *bare.layout.close]
    model = with_lora(bare.model, LoraConfig(rank=2, train_markers=train_markers), ids)
    backbone = Backbone(model, bare.tokenizer, ModelConfig(), name="adapted").eval()
    method = built(backbone, num_latents=1)
    set_trainable(method, STAGE)
    markers = torch.tensor(ids)
    before = backbone.embed(markers).detach().clone()
    optimizer = torch.optim.SGD([p for _, p in method.trainable_parameters(STAGE)], lr=0.1)
    loss_of(method, EXAMPLES).objective().backward()
    optimizer.step()
    assert torch.equal(backbone.embed(markers), before) != train_markers


# counts (12.6, 12.7, 12.10), weights (12.12), no latents (12.13)


def test_a_training_step_runs_the_model_k_plus_three_times() -> None:
    method = built(make_backbone("llama"), num_latents=6)
    passes: list[int] = []
    method.backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    loss_of(method, EXAMPLES)
    assert len(passes) == 9


@torch.no_grad()
def test_the_cache_grows_by_the_latents() -> None:
    method = built(make_backbone("llama"), num_latents=3)
    columns: list[int] = []
    feed = method.backbone.feed

    def watching(state: Any, *given: Any, **options: Any) -> Any:
        columns.extend([len(state.cache), int(state.lengths)])
        return feed(state, *given, **options)

    method.backbone.feed = watching  # type: ignore[method-assign]
    loss_of(method, [ANN])
    assert columns == [len(method.prompt_ids(ANN.question)) + 3] * 2


@pytest.mark.parametrize(("size", "expected"), [(768, 1_182_720), (2048, 8_396_800)])
def test_the_projection_has_the_papers_size(size: int, expected: int) -> None:
    config = ModelConfig(hidden_size=size, num_layers=1, num_heads=8, mlp_size=8, device="cpu")
    method = built(Backbone.load(config))
    assert sum(p.numel() for p in method.heads.parameters()) == expected


@pytest.mark.parametrize(("name", "expected"), [("gpt2", 18_874_368), ("llama1b", 90_177_536)])
def test_the_adapters_have_the_papers_size(name: str, expected: int) -> None:
    shape: Any = GPT2Config()
    if name == "llama1b":
        shape = LlamaConfig(
            hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
        )  # fmt: skip
    lora: Any = tree.preset("codi", name)["model"]["lora"]
    with torch.device("meta"):
        model = with_lora(AutoModelForCausalLM.from_config(shape), LoraConfig(**lora), [])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_projection_options() -> None:
    backbone = make_backbone("llama")
    assert len(built(backbone, projection=False).heads) == 0
    bare: Any = built(backbone, projection_norm=False, projection_size=5).heads["projection"]
    assert [tuple(p.shape) for p in bare.parameters()] == [(5, 32), (5,), (32, 5), (32,)]
    assert all(p.dtype == torch.float64 for p in built(backbone).heads.parameters())


def test_the_weights_of_the_terms() -> None:
    method = built(make_backbone("llama"), kd_weight=20.0, teacher_weight=0.5)
    with torch.no_grad():
        losses = loss_of(method, EXAMPLES)
    expected = mean(losses, "ce") + 20 * mean(losses, "kd") + 0.5 * mean(losses, "teacher_ce")
    assert float(losses.objective()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
@torch.no_grad()
def test_without_latents_it_is_no_cot_and_cot_training_together(layout: str) -> None:
    """The distance stays defined: the close marker is there without latents too."""
    method = built(make_backbone("gpt2", layout=layout), num_latents=0, drop_last_step=False)
    losses = loss_of(method, EXAMPLES)
    direct = method.backbone.batch_sequences([e.without_steps(None) for e in EXAMPLES], "answer").tokens
    cot = method.backbone.batch_sequences(EXAMPLES, "steps").tokens
    for name, tokens in (("ce", direct), ("teacher_ce", cot)):
        plain = token_cross_entropy(*method.backbone.logits_at_labels(tokens))
        assert losses[name].num_items == plain.num_items
        torch.testing.assert_close(losses[name].total, plain.total, rtol=1e-8, atol=1e-8)
    assert mean(losses, "kd") > 0


# generation


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@torch.no_grad()
def test_latents_in_training_equal_latents_in_generation(name: str) -> None:
    method = built(make_backbone(name), num_latents=4)
    record = RecordedLatents()
    method.distil(method.batch(EXAMPLES, STAGE), record)
    config = GenerateConfig(max_new_tokens=3, batch_size=2)
    for row, got in enumerate(method.generate([e.question for e in EXAMPLES], config, trace=True)):
        assert got.num_latents == 4
        assert got.closed
        assert got.trace is not None
        assert got.trace.embeds is not None
        expected = torch.stack([latent[row] for latent in record.fed]).float()
        torch.testing.assert_close(got.trace.embeds, expected, rtol=1e-5, atol=1e-5)


def test_no_latents_generate_as_direct_does() -> None:
    from methods.direct import Direct, DirectConfig

    backbone = make_backbone("llama")
    config = GenerateConfig(max_new_tokens=8)
    questions = [e.question for e in EXAMPLES]
    got = built(backbone, num_latents=0).generate(questions, config)
    assert [g.text for g in got] == [g.text for g in Direct(backbone, DirectConfig()).generate(questions, config)]


# input that cannot be used


def test_data_without_steps_are_refused(tmp_path: Path) -> None:
    method = built(make_backbone("llama"))
    ones = [EXAMPLES[1], Example(id="none", question="1", steps=(), answer="1")]
    with pytest.raises(ValueError, match=r"method 'codi' needs reasoning steps, but none of 2 .* use other data"):
        train_method(method, ones, TrainConfig(), folder=tmp_path, seed=0)
    built(make_backbone("llama"), drop_last_step=False).prepare(STAGE, ones, tmp_path)
    method.prepare(STAGE, EXAMPLES, tmp_path)


def test_a_model_without_a_close_marker_is_refused() -> None:
    backbone = make_backbone("llama")
    backbone.layout.close = ()
    with pytest.raises(ValueError, match=r"distils at the close marker, which llama has not; load it with markers"):
        built(backbone).check_training([STAGE])


def test_latents_count_towards_the_context() -> None:
    backbone = make_backbone("llama")
    length = len(backbone.layout.encode(ANN.without_steps(None)))
    fits = built(backbone, num_latents=backbone.context - length)
    assert fits.skip_reason(ANN, STAGE) is None
    over = built(backbone, num_latents=backbone.context - length + 1)
    assert over.skip_reason(ANN, STAGE) == "longer than the context"
    chain = Example(id="x", question="1", steps=("<<1+1=2>>",) * 60, answer="1")
    assert built(backbone, num_latents=0).skip_reason(chain, STAGE) == "longer than the context"


@pytest.mark.parametrize(
    ("setting", "value"), [("num_latents", -1), ("kd_weight", -0.5), ("divide", "both"), ("projection_size", 0)]
)
def test_settings_out_of_range_are_named(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"method\.{setting}"):
        parse({"method": {"name": "codi", setting: value}})


# training


@pytest.mark.slow
def test_a_few_rows_are_learnt_by_heart(tmp_path: Path) -> None:
    model = ModelConfig(hidden_size=64, num_layers=2, num_heads=2, mlp_size=128, device="cpu")
    method = built(Backbone.load(model), num_latents=2)
    rows = [
        Example(id=str(i), question=f"n0 = {i} + 3; n0 = ?", steps=(f"<<{i}+3={i + 3}>>",) * 2, answer=str(i + 3))
        for i in range(64)
    ]
    # A rate that sinks to zero: at a constant one the last steps decide, which differ between CPUs.
    config = TrainConfig(epochs=90, batch_size=16, lr=3e-3, schedule="cosine", log_every=1)
    train_method(method, rows, config, folder=tmp_path, seed=0)
    answers = method.generate([row.question for row in rows], GenerateConfig(max_new_tokens=6))
    assert [answer.text.strip() for answer in answers] == [row.answer for row in rows]
    assert mean(loss_of(method, rows), "ce") < 0.05


ARCHITECTURE = {"gpt2": "gpt2", "llama1b": "llama"}


def small(preset: str, folder: Path) -> RunConfig:
    """The preset with a tiny model of its architecture, short data, and two optimiser steps."""
    changes: dict[str, Any] = {
        "method": {"name": "codi"},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "train": {"batch_size": 2, "accumulation": 2, "max_steps": 2},
        "generate": {"max_new_tokens": 4, "batch_size": 4},
    }
    changes["model"] = small_model(None if preset == "tiny" else ARCHITECTURE[preset], folder)
    return parse(changes, preset=preset)


@pytest.mark.parametrize("preset", tree.presets("codi"))
def test_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    config = small(preset, tmp_path / "model")
    for key, value in tree.preset("codi", preset)["method"].items():
        assert getattr(config.method, key) == value
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records
    assert [record.num_latents for record in records] == [config.method.num_latents] * 3
