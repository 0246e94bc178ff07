"""CoLaR against loops without cache, and arithmetic worked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig, ModelConfig, TrainConfig, parse, tree
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import Latent, Mode, RowState
from latbench.decoding.sampling import normal, row_keys, uniform
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.method import Losses, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.model.tiny import tiny_config, tiny_tokenizer
from latbench.runs.run import Run
from latbench.runs.train import train
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.trainer import set_trainable, train_method
from methods.colar import (
    AUTO,
    LABEL_DRAW,
    LATENT_DRAW,
    Colar,
    ColarBatch,
    ColarConfig,
    ColarDecoding,
    LatentHead,
    LatentHeadRule,
    compress,
)
from methods.cot import Cot, CotConfig
from tests.conftest import CHAINS, make_backbone, small_model

BackboneOf = Callable[..., Backbone]
STAGE = Stage(name="sft")
EXAMPLES = CHAINS
LOSSES: list[Any] = ["soft_mse", "nll", "mse"]


def built(backbone: Backbone, **settings: Any) -> Colar:
    torch.manual_seed(3)
    return Colar(backbone, ColarConfig(**settings)).eval()


def at(c: int, backbone: Backbone, **settings: Any) -> Colar:
    """A method that trains at one speed."""
    return built(backbone, speeds=(c,), **settings)


def chain(text: str, id_: str = "x") -> Example:
    """A chain of single-byte tokens."""
    return Example(id=id_, question="1?", steps=(text,), answer="2")


def loss_of(method: Colar, examples: list[Example]) -> Losses:
    losses: Losses = method(method.batch(examples, STAGE), STAGE)
    return losses


def groups(method: Colar, batch: ColarBatch) -> list[str]:
    """Text of every chunk."""
    decode = method.backbone.layout.decode
    return [decode(ids[mask].tolist()) for ids, mask in zip(batch.chunk_ids, batch.chunk_mask, strict=True)]


# chunks and their merge (T2, T3)


@pytest.mark.parametrize(
    ("text", "c", "expected"),
    [
        ("abcdefg", 2, "ab cd ef g"),
        ("abcdefg", 3, "abc def g"),
        ("abcdefg", 5, "abcde fg"),
        ("abc", 4, "abc"),
        ("abcde", 5, "abcde"),
        ("abcdefg", 1, "a b c d e f g"),
    ],
)
def test_chunks_are_cut_from_the_left_of_each_row_alone(llama: Backbone, text: str, c: int, expected: str) -> None:
    method = at(c, llama)
    batch = method.batch([chain("pqrstuvwxyz", "long"), chain(text)], STAGE)
    num = ceil(len(text) / c)
    assert groups(method, batch)[-num:] == expected.split()
    assert batch.is_latent.sum(1).tolist() == [ceil(11 / c), num]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("sqrt", {1: 1.0, 2: 0.7071, 3: 0.5773, 4: 0.5, 5: 0.4472}), ("mean", {1: 1.0, 2: 0.5, 3: 0.3333, 5: 0.2})],
)
def test_a_merge_divides_by_the_real_number_of_tokens(pooling: Any, expected: dict[int, float]) -> None:
    one_hot = torch.eye(5)[None]
    for m, value in expected.items():
        mask = (torch.arange(5) < m)[None]
        merged = compress(one_hot, mask, 5, pooling)[0]
        torch.testing.assert_close(merged, torch.where(mask[0], value, 0.0), rtol=0, atol=6e-5)


@pytest.mark.parametrize(
    ("pooling", "m", "expected"),
    [
        ("sqrt", 1, (2.99997, 3.99996)),
        ("sqrt", 2, (2.82841, 2.82841)),
        ("sqrt", 3, (2.30939, 3.46408)),
        ("mean", 2, (1.99999, 1.99999)),
        ("mean", 3, (1.33333, 1.99999)),
    ],
)
def test_the_worked_merges_are_met(pooling: Any, m: int, expected: tuple[float, float]) -> None:
    embeds = torch.tensor([[[3.0, 4], [1, 0], [0, 2]]]).double()
    merged = compress(embeds, (torch.arange(3) < m)[None], 3, pooling)
    torch.testing.assert_close(merged[0], torch.tensor(expected).double(), rtol=0, atol=6e-6)


def test_speed_1_leaves_embeddings_as_they_are() -> None:
    embeds = torch.randn(4, 1, 8)
    assert torch.equal(compress(embeds, torch.ones(4, 1, dtype=torch.bool), 1, "sqrt"), embeds[:, 0])
    merged = compress(embeds, torch.ones(4, 1, dtype=torch.bool), 5, "sqrt")  # of a short chunk
    torch.testing.assert_close(merged, embeds[:, 0] / (1 + 1e-5))


def test_a_merge_keeps_the_spread_of_an_embedding() -> None:
    embeds = torch.randn(2000, 5, 32, generator=torch.Generator().manual_seed(0))
    full = torch.ones(2000, 5, dtype=torch.bool)
    assert float(compress(embeds, full, 5, "sqrt").std()) == pytest.approx(1, abs=0.02)
    assert float(compress(embeds, full, 5, "mean").std()) == pytest.approx(5**-0.5, abs=0.02)


# labels and targets (T4, T5, T6)


@contextmanager
def watched_targets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Embeddings that the latent head is asked to predict, before they are divided by s."""
    seen: list[Tensor] = []
    normalised = LatentHead.normalised

    def watch(self: LatentHead, embeds: Tensor) -> Tensor:
        seen.append(embeds)
        return normalised(self, embeds)

    with monkeypatch.context() as patch:
        patch.setattr(LatentHead, "normalised", watch)
        yield seen


@pytest.mark.parametrize(("lengths", "c"), [((7, 3), 5), ((6, 4, 2), 3), ((9, 1, 5, 2), 2), ((3, 8), 1)])
@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_no_row_of_a_padded_batch_loses_its_stop(
    backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], c: int, layout: str
) -> None:
    """Every z_K has the close marker as its label and e(marker) as its target; the layout `coconut` has three of it."""
    backbone = backbone_of("llama", layout=layout)
    method = at(c, backbone)
    joined = len(backbone.layout.after_steps)  # tokens of the chain
    batch = method.batch([chain("abcdefghi"[: num - joined], str(num)) for num in lengths], STAGE)
    close = list(backbone.layout.close)
    with watched_targets(monkeypatch) as seen, torch.no_grad():
        method(batch, STAGE)
    (targets,) = seen
    rows = targets.split(batch.before.sum(1).tolist())
    merged = compress(backbone.embed(batch.chunk_ids), batch.chunk_mask, c, "sqrt")
    for row, (num, own) in enumerate(zip(lengths, merged.split(batch.is_latent.sum(1).tolist()), strict=True)):
        assert len(own) == ceil(num / c)
        last = int(batch.is_latent[row].nonzero().max())
        assert batch.sequence.labels[row, last : last + len(close)].tolist() == close
        assert batch.sequence.ids[row, last + 1 : last + 1 + len(close)].tolist() == close
        expected = torch.cat([own, backbone.embed(torch.tensor(close[:1]))])
        torch.testing.assert_close(rows[row], expected, rtol=0, atol=0)


def drawn_labels(method: Colar, example: Example) -> list[int]:
    """Labels of the positions that predict a chunk."""
    batch = method.batch([example], STAGE)
    first = int(batch.before[0].nonzero().min())
    labels: list[int] = batch.sequence.labels[0, first : first + int(batch.is_latent.sum())].tolist()
    return labels


def test_a_label_is_a_uniform_draw_from_its_chunk(llama: Backbone) -> None:
    """3,000 draws: a third each of a chunk of three, within four standard errors; of a chunk of one always itself."""
    method = at(3, llama)
    found = []
    for epoch in range(3000):
        method.epoch = epoch
        found.append(method.backbone.layout.decode(drawn_labels(method, chain("abcd"))))
    assert {text[1] for text in found} == {"d"}
    counts = [sum(text[0] == letter for text in found) for letter in "abc"]
    assert sum(counts) == 3000
    assert counts == pytest.approx([1000] * 3, abs=4 * (3000 * 2 / 9) ** 0.5)


def test_labels_of_a_row_are_drawn_independently(llama: Backbone) -> None:
    method, pairs = at(2, llama), set()
    for epoch in range(60):
        method.epoch = epoch
        pairs.add(method.backbone.layout.decode(drawn_labels(method, chain("abcd"))))
    assert pairs == {"ac", "ad", "bc", "bd"}


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
@pytest.mark.parametrize("predict_chain", [True, False])
def test_each_position_is_taught_what_comes_next(backbone_of: BackboneOf, layout: str, predict_chain: bool) -> None:
    """Q <think> z_1 z_2 </think> A EOS: chunk 1, chunk 2, </think>, A, EOS, and nothing inside Q."""
    backbone = backbone_of("gpt2", layout=layout)
    method = at(2, backbone, predict_chain=predict_chain)
    example = chain("abcd" if layout == "default" else "abc")  # that layout ends every step with a newline
    batch = method.batch([example], STAGE)
    pieces = backbone.layout.encode(replace(example, question="1?(Thinking speed: 2)"))
    final = [*pieces.close, *pieces.answer, pieces.eos]
    ids, labels = batch.sequence.ids[0].tolist(), batch.sequence.labels[0].tolist()
    p = len(pieces.prompt)
    assert ids[:p] == list(pieces.prompt)
    assert ids[p + 2 :] == final
    assert set(labels[: p - 1]) == {IGNORE_INDEX}
    first, second = labels[p - 1 : p + 1]
    if predict_chain:
        assert first in pieces.steps[:2]
        assert second in pieces.steps[2:]
    else:
        assert first == second == IGNORE_INDEX
    assert labels[p + 1 :] == [*final, IGNORE_INDEX]
    assert batch.before[0].nonzero()[:, 0].tolist() == [p - 1, p, p + 1]
    assert batch.sequence.positions[0].tolist() == list(range(p + 2 + len(final)))
    assert batch.num_items == {"ce": len(final) + 2 * predict_chain, "latent": 3, "entropy": 3}


# latent head (T7, T8)


def worked_head(**options: Any) -> LatentHead:
    """D = I = 2, identities, log_std halved; float64."""
    head = LatentHead(2, 2, 0.5, **options).double()
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(torch.eye(2))
                module.bias.zero_()
        if head.log_std is not None:
            head.log_std.weight.mul_(0.5)
    return head


HIDDEN = torch.tensor([1.0, 2.0]).double()


def close_to(found: Tensor, *expected: float, atol: float = 6e-6) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


def test_the_worked_head_is_met() -> None:
    head = worked_head()
    found = head(HIDDEN)
    close_to(found.mean, -0.99998, 0.99998)
    close_to(found.stddev, 0.60654, 1.64871)
    ones = torch.ones(2).double()
    close_to(head.draw(HIDDEN, 0.0) / 0.5, -0.99998, 0.99998)
    close_to((head.draw(HIDDEN, 0.5 * ones) - head.draw(HIDDEN, 0.0)) / 0.5, 0.30327, 0.82435)


def test_the_deterministic_head_has_no_spread_and_no_weights_for_it() -> None:
    head = worked_head(deterministic=True)
    assert not any("log_std" in name for name, _ in head.named_parameters())
    close_to(head(HIDDEN).stddev, 1e-9, 1e-9, atol=0)
    close_to(head(HIDDEN).mean, -0.99998, 0.99998)


def test_the_worked_densities_are_met() -> None:
    """Of the latent (0.5, -0.5) under s = 0.5, which is (1, -1) in units of s."""
    head, latent = worked_head(), torch.tensor([0.5, -0.5]).double()
    density = head.log_density(latent, HIDDEN)
    close_to(density, -5.85534, -2.15469)
    assert float(-density.detach().mean()) == pytest.approx(4.00501, abs=6e-6)
    found = head(HIDDEN)
    assert float(found.entropy().detach().mean()) == pytest.approx(1.41894, abs=6e-6)
    y = head.normalised(latent)
    assert float(((found.mean - y) ** 2 + found.stddev**2).detach().mean()) == pytest.approx(5.54300, abs=6e-5)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4)])
def test_densities_are_those_of_independent_gaussians(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = LatentHead(6, 5, 0.25).double()
    hidden, latents = torch.randn(*shape, 6).double(), torch.randn(*shape, 6).double()
    found = head(hidden)
    density = head.log_density(latents, hidden)
    assert density.shape == (*shape, 6)
    joint = torch.distributions.MultivariateNormal(found.mean, scale_tril=torch.diag_embed(found.stddev))
    torch.testing.assert_close(density.sum(-1), joint.log_prob(latents / 0.25))


@pytest.mark.parametrize(
    ("size", "inner", "expected", "deterministic"),
    [(2048, 2048, 16_789_504, 12_593_152), (1536, 2048, 13_642_752, 10_495_488), (3072, 2048, 23_083_008, None)],
)
def test_the_head_has_the_papers_size(size: int, inner: int, expected: int, deterministic: int | None) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in LatentHead(size, inner, 1.0).parameters()) == expected
        if deterministic:
            head = LatentHead(size, inner, 1.0, deterministic=True)
            assert sum(p.numel() for p in head.parameters()) == deterministic


def test_an_untrained_head_has_the_published_losses() -> None:
    """Unit Gaussian states and targets: soft-MSE about 3.28, NLL 2.23, entropy 1.41."""
    torch.manual_seed(0)
    head = LatentHead(256, 256, 1.0)
    hidden, y = torch.randn(2000, 256), torch.randn(2000, 256)
    with torch.no_grad():
        found = head(hidden)
        drawn = head.draw(hidden, torch.randn(2000, 256))
    assert float(((drawn - y) ** 2).mean()) == pytest.approx(3.28, abs=0.12)
    assert float(-found.log_prob(y).mean()) == pytest.approx(2.23, abs=0.06)
    assert float(found.entropy().mean()) == pytest.approx(1.41, abs=0.06)


def test_the_scale_is_the_deviation_of_the_input_embeddings_or_what_is_given() -> None:
    for name in ("llama", "gemma3"):  # which scales inside its embedding module
        backbone = make_backbone(name)
        rows = backbone.embed(torch.arange(len(backbone.model.get_input_embeddings().weight)))
        assert float(built(backbone).head.scale) == pytest.approx(float(rows.detach().std()), rel=1e-6)
    assert float(built(make_backbone("llama"), embedding_scale=0.018).head.scale) == pytest.approx(0.018)


def test_the_scale_stays_that_of_training(tmp_path: Path) -> None:
    method = built(Backbone.load(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu")))
    before = float(method.head.scale)
    with torch.no_grad():
        method.backbone.model.get_input_embeddings().weight.mul_(3)
    checkpoint.save(method, tmp_path / "checkpoint")
    loaded: Any = checkpoint.load(tmp_path / "checkpoint")
    assert float(loaded.head.scale) == before


def test_a_bfloat16_model_has_a_float32_head() -> None:
    method = built(make_backbone("llama", dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in method.heads.state_dict().values()} == {torch.float32}
    losses = loss_of(method, EXAMPLES)
    assert losses["latent"].total.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert method.head(torch.randn(2, 32).bfloat16()).mean.dtype == torch.float32
    (found,) = method.generate(["n0 = 3"], GenerateConfig(max_new_tokens=2, max_latents=3))
    assert found.num_latents >= 1


# losses


@dataclass
class Slow:
    """Losses of one row, item by item."""

    ce: list[float]
    latent: list[float]
    entropy: list[float]


@torch.no_grad()
def slow(method: Colar, example: Example, c: int) -> Slow:
    """One row, unpadded, from sections 1 to 3, with the head and the losses written out."""
    backbone, layout, config, head = method.backbone, method.backbone.layout, method.config, method.head
    key = row_keys(method.seed, [example.id], [method.epoch])
    prompt = layout.prompt(f"{example.question}(Thinking speed: {c})")
    steps = layout.steps(example.steps)
    chunks = [steps[start : start + c] for start in range(0, len(steps), c)]
    latents: list[Tensor] = []
    for chunk in chunks:
        total = sum((backbone.embed(torch.tensor(token)) for token in chunk), torch.zeros(backbone.hidden_size))
        m = len(chunk)
        latents.append(total if c == 1 else total / ((m**0.5 if config.pooling == "sqrt" else m) + 1e-5))
    final = [*layout.close, *layout.encode(example).answer, layout.eos]
    embeds = torch.cat(
        [backbone.embed(torch.tensor(prompt)), torch.stack(latents), backbone.embed(torch.tensor(final))]
    )
    output = backbone.model(inputs_embeds=embeds[None], output_hidden_states=True)
    logits, hidden = output.logits[0].log_softmax(-1), output.hidden_states[-1][0]

    start = len(prompt) - 1
    places = uniform(key.expand(len(chunks)), torch.arange(len(chunks)), LABEL_DRAW)
    found = Slow([], [], [])
    for k, chunk in enumerate(chunks):
        if config.predict_chain:
            found.ce.append(-float(logits[start + k, chunk[int(float(places[k]) * len(chunk))]]))
    found.ce += [-float(logits[start + len(chunks) + i, token]) for i, token in enumerate(final)]
    first, second, norm = head.mlp[0], head.mlp[2], head.mlp[3]
    for k in range(len(chunks) + 1):
        x = first.weight @ hidden[start + k] + first.bias
        x = second.weight @ (0.5 * x * (1 + torch.erf(x / 2**0.5))) + second.bias
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        mean = head.mean.weight @ x + head.mean.bias
        log_std = torch.full_like(mean, log(1e-9))
        if head.log_std is not None:
            log_std = head.log_std.weight @ x + head.log_std.bias
        y = embeds[start + k + 1] / head.scale
        if config.latent_loss == "nll":
            each = 0.5 * log(2 * pi) + log_std + 0.5 * ((y - mean) / log_std.exp()) ** 2
        else:
            each = (mean + log_std.exp() * normal(key, torch.tensor([k]), LATENT_DRAW, len(mean))[0] - y) ** 2
        found.latent.append(float(each.mean()))
        found.entropy.append(float((0.5 * log(2 * pi) + 0.5 + log_std).mean()))
    return found


CASES: list[tuple[str, str, int, dict[str, Any]]] = [
    ("gpt2", "default", 2, {}),
    ("llama", "default", 3, {}),
    ("qwen2", "default", 5, {}),
    ("gpt2", "plain_hash_answer", 3, {"latent_loss": "nll"}),
    ("llama", "plain_hash_answer", 1, {"head_size": 7}),
    ("qwen2", "default", 1, {"latent_loss": "nll", "predict_chain": False}),
    ("llama", "default", 4, {"latent_loss": "mse", "pooling": "mean"}),
    ("gpt2", "default", 50, {"predict_chain": False}),  # one latent a row
]


@pytest.mark.parametrize(("name", "layout", "c", "settings"), CASES)
@torch.no_grad()
def test_the_losses_equal_a_loop_over_single_rows(
    backbone_of: BackboneOf, name: str, layout: str, c: int, settings: dict[str, Any]
) -> None:
    method = at(c, backbone_of(name, layout=layout), **settings)
    method.seed, method.epoch = 5, 2
    batch = method.batch(EXAMPLES, STAGE)
    losses = method(batch, STAGE)
    rows = [slow(method, example, c) for example in EXAMPLES]
    terms = {"ce", "latent"} | ({"entropy"} if settings.get("latent_loss") != "mse" else set())
    assert losses.keys() == batch.num_items.keys() == terms
    for term in terms:
        every = [value for row in rows for value in getattr(row, term)]
        assert losses[term].num_items == batch.num_items[term] == len(every)
        assert float(losses[term].total) == pytest.approx(sum(every), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("latent_loss", LOSSES)
@pytest.mark.parametrize("c", [1, 2, 3, 4, 5])
@torch.no_grad()
def test_a_row_sees_neither_its_neighbours_nor_padding(llama: Backbone, c: int, latent_loss: str) -> None:
    method = at(c, llama, latent_loss=latent_loss)
    long = Example(id="long", question="x " * 20, steps=("<<1+1=2>>",) * 5, answer="123456")
    together = loss_of(method, [*EXAMPLES, long])
    alone = [loss_of(method, [example]) for example in [*EXAMPLES, long]]
    for name, term in together.items():
        assert term.num_items == sum(losses[name].num_items for losses in alone)
        torch.testing.assert_close(
            term.total, torch.stack([losses[name].total for losses in alone]).sum(), rtol=1e-10, atol=1e-10
        )


@torch.no_grad()
def test_at_speed_1_text_is_taught_as_by_cot(llama: Backbone) -> None:
    told = [replace(example, question=f"{example.question}(Thinking speed: 1)") for example in EXAMPLES]
    cot = Cot(llama, CotConfig())
    expected, found = cot(cot.batch(told, STAGE), STAGE)["ce"], loss_of(at(1, llama), EXAMPLES)["ce"]
    assert found.num_items == expected.num_items
    torch.testing.assert_close(found.total, expected.total, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_terms_are_weighted(llama: Backbone) -> None:
    losses = loss_of(at(2, llama, latent_weight=0.3, entropy_bonus=0.01), EXAMPLES)
    ce, latent, entropy = (float(losses[name].total) / losses[name].num_items for name in ("ce", "latent", "entropy"))
    assert float(losses.objective()) == pytest.approx(ce + 0.3 * latent - 0.01 * entropy, rel=1e-12)


def test_an_entropy_bonus_raises_the_deviation(llama: Backbone) -> None:
    def slope(bonus: float) -> float:
        method = at(2, llama, entropy_bonus=bonus)
        assert method.head.log_std is not None
        loss_of(method, EXAMPLES).objective().backward()
        assert method.head.log_std.bias.grad is not None
        return float(method.head.log_std.bias.grad.mean())

    assert slope(10.0) < slope(0.0)


# what is trained


@pytest.mark.parametrize("name", ["llama", "llama_untied", "gpt2"])
def test_the_tables_are_frozen_and_all_else_is_trained(backbone_of: BackboneOf, name: str) -> None:
    method = built(backbone_of(name))
    (stage,) = method.stages()
    set_trainable(method, stage)
    loss_of(method, EXAMPLES).objective().backward()
    model = method.backbone.model
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for parameter in method.parameters():
        if id(parameter) in tables:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert parameter.grad.any()


@pytest.mark.parametrize("latent_loss", LOSSES)
def test_targets_get_no_gradient(backbone_of: BackboneOf, latent_loss: str) -> None:
    """e(</think>) is the target of z_K, and no input of a position that predicts a latent."""
    backbone = backbone_of("llama_untied")
    method = at(2, backbone, latent_loss=latent_loss)
    table = backbone.model.get_input_embeddings().weight
    gradient = torch.autograd.grad(loss_of(method, EXAMPLES)["latent"].total, table)[0]
    assert not gradient[backbone.layout.close[0]].any()
    assert gradient[backbone.layout.open[0]].any()


# speeds


def test_speeds_are_uniform_over_what_is_asked(llama: Backbone) -> None:
    for settings, expected in (({}, {1, 2, 3, 4, 5}), ({"max_speed": 2}, {1, 2}), ({"speeds": (1, 3, 7)}, {1, 3, 7})):
        method = built(llama, **settings)
        drawn = []
        for step in range(3000):
            method.step = step
            drawn.append(method.speed())
        counts = [drawn.count(c) for c in expected]
        assert sum(counts) == 3000
        share = 1 / len(expected)
        assert counts == pytest.approx([3000 * share] * len(expected), abs=4 * (3000 * share * (1 - share)) ** 0.5)


def test_all_rows_of_an_optimiser_step_have_its_speed(llama: Backbone) -> None:
    method = built(llama)

    def speeds(**attributes: int) -> list[int]:
        found = []
        for step in range(30):
            method.seed, method.epoch, method.step = 0, 0, step
            for name, value in attributes.items():
                setattr(method, name, value)
            parts = [method.batch(EXAMPLES[:2], STAGE), method.batch(EXAMPLES[2:], STAGE)]
            assert parts[0].c == parts[1].c
            for part in parts:
                for ids, length in zip(part.sequence.ids, part.sequence.lengths, strict=True):
                    assert f"(Thinking speed: {part.c})" in llama.layout.decode(ids[:length].tolist())
            found.append(parts[0].c)
        return found

    assert speeds() == speeds(epoch=3)
    assert speeds() != speeds(seed=1)
    assert len(set(speeds())) == 5


def test_draws_are_keyed_by_seed_epoch_and_example_alone(llama: Backbone) -> None:
    """Labels, noise and `auto` of a row, whatever the batch."""
    method = at(3, llama, auto_prob=0.5)

    def seen(examples: list[Example]) -> dict[str, tuple[Any, ...]]:
        batch = method.batch(examples, STAGE)
        noise = normal(batch.noise_keys, batch.noise_steps, LATENT_DRAW, 4).split(batch.before.sum(1).tolist())
        rows = zip(examples, batch.sequence.lengths, batch.sequence.ids, batch.sequence.labels, noise, strict=True)
        return {e.id: (ids[:n].tolist(), labels[:n].tolist(), eps.tolist()) for e, n, ids, labels, eps in rows}

    usual = seen(EXAMPLES)
    assert seen(EXAMPLES[::-1]) == usual
    assert {key: row for example in EXAMPLES for key, row in seen([example]).items()} == usual
    for name in ("seed", "epoch"):
        setattr(method, name, 1)
        changed = seen(EXAMPLES)
        assert all(changed[key][1:] != usual[key][1:] for key in usual), name
        setattr(method, name, 0)


def test_auto_stands_in_for_the_speed_at_its_probability(llama: Backbone) -> None:
    examples = [replace(EXAMPLES[1], id=f"x{i}") for i in range(400)]

    def share(probability: float) -> float:
        ids = at(3, llama, auto_prob=probability).batch(examples, STAGE).sequence.ids.tolist()
        texts = [llama.layout.decode(row) for row in ids]
        assert all(("(Thinking speed: auto)" in text) != ("(Thinking speed: 3)" in text) for text in texts)
        return sum("auto" in text for text in texts) / 400

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert share(0.25) == pytest.approx(0.25, abs=0.09)


def test_the_prompt_of_inference_is_that_of_training(llama: Backbone) -> None:
    for asked, config in (
        (2, None),
        (2, GenerateConfig()),
        (4, GenerateConfig(method=ColarDecoding(thinking_speed=4))),
        (9, GenerateConfig(method=ColarDecoding(thinking_speed=9))),  # outside of what it was trained on
        (AUTO, GenerateConfig(method=ColarDecoding(thinking_speed=AUTO))),
    ):
        method = at(asked or 3, llama, auto_prob=float(asked == AUTO))
        batch = method.batch([EXAMPLES[0]], STAGE)
        prompt = batch.sequence.ids[0, : int(batch.before[0].nonzero().min()) + 1].tolist()
        assert method.prompt_ids(EXAMPLES[0].question, config) == prompt
    assert built(llama, test_speed=5).prompt_ids("1?") == llama.prompt("1?(Thinking speed: 5)")
    assert built(llama, test_speed=0).prompt_ids("1?") == llama.prompt("1?(Thinking speed: auto)")


# inference


LENGTHS = {"llama": 5.0, "gpt2": 3.0, "qwen2": 1.5}
QUESTIONS = [f"n{i} = {7 * i % 11} + {i}; {'n1 = 2; ' * (i % 3)}n0 = ?" for i in range(8)]
PROMPTS = [Prompt(id=str(i), text=question) for i, question in enumerate(QUESTIONS)]
GENERATE = GenerateConfig(max_new_tokens=6, max_latents=7, batch_size=3)


def thinker(name: str, **model: Any) -> Colar:
    """A method whose rows stop at unlike steps: the close marker's row is long enough to win sometimes."""
    backbone = make_backbone(name, **model)
    with torch.no_grad():
        tables = (backbone.model.get_input_embeddings().weight, backbone.model.get_output_embeddings().weight)
        for table in {id(t): t for t in tables}.values():
            row = table[backbone.layout.close[0]]
            row.mul_(LENGTHS[name] * float(table.norm(dim=1).mean() / row.norm()))
    return built(backbone)


@dataclass
class SlowAnswer:
    """What the slow loop found: the latents fed, and the ids after the close marker, EOS left out."""

    latents: list[Tensor]
    answer: list[int]
    stopped: bool


@torch.no_grad()
def slow_answer(method: Colar, prompt: Prompt, config: GenerateConfig, seed: int = 0) -> SlowAnswer:
    """One prompt without cache, written from section 5: the whole sequence again at every step."""
    backbone, layout = method.backbone, method.backbone.layout
    said = {None: 2, AUTO: "auto"}.get(
        config.own(ColarDecoding).thinking_speed, config.own(ColarDecoding).thinking_speed
    )
    embeds = backbone.embed(torch.tensor(layout.prompt(f"{prompt.text}(Thinking speed: {said})")))

    def last(embeds: Tensor) -> tuple[Tensor, Tensor]:
        output = backbone.model(inputs_embeds=embeds[None], output_hidden_states=True)
        return output.hidden_states[-1][0, -1], output.logits[0, -1]

    key = row_keys(seed, [prompt.id], [prompt.sample])
    latents: list[Tensor] = []
    stopped = False
    while len(latents) < config.max_latents:
        found = method.head(last(embeds)[0])
        eps = normal(key, torch.tensor([len(latents)]), LATENT_DRAW, len(found.mean))[0]
        latents.append((found.mean + config.own(ColarDecoding).latent_noise * found.stddev * eps) * method.head.scale)
        embeds = torch.cat([embeds, latents[-1][None]])
        if int(last(embeds)[1].argmax()) == layout.close[0]:
            stopped = True
            break
    embeds = torch.cat([embeds, backbone.embed(torch.tensor(layout.close))])
    answer: list[int] = []
    while len(answer) < config.max_new_tokens:
        token = int(last(embeds)[1].argmax())
        if token == layout.eos:
            break
        answer.append(token)
        embeds = torch.cat([embeds, backbone.embed(torch.tensor([token]))])
    return SlowAnswer(latents, answer, stopped)


def same(method: Colar, found: Generation, expected: SlowAnswer) -> None:
    assert found.num_latents == len(expected.latents)
    assert found.text == method.backbone.layout.decode(expected.answer)
    assert (found.num_reasoning_tokens, found.num_answer_tokens) == (0, len(expected.answer))
    assert found.closed
    assert found.trace is not None
    torch.testing.assert_close(found.trace.embeds, torch.stack(expected.latents).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layout", "changes"),
    [
        ("llama", "default", {}),
        ("gpt2", "default", {"latent_noise": 1.0}),
        ("qwen2", "default", {"latent_noise": 0.5, "thinking_speed": 5}),
        ("llama", "plain_hash_answer", {"latent_noise": 1.0, "thinking_speed": AUTO}),
    ],
)
def test_cached_batches_equal_a_loop_without_cache(name: str, layout: str, changes: dict[str, Any]) -> None:
    method, config = thinker(name, layout=layout), replace(GENERATE, method=ColarDecoding(**changes))
    found = method.generate(PROMPTS, config, seed=3, trace=True)
    expected = [slow_answer(method, prompt, config, seed=3) for prompt in PROMPTS]
    for generation, one in zip(found, expected, strict=True):
        same(method, generation, one)
    alone = [method.generate([prompt], config, seed=3)[0] for prompt in PROMPTS]
    assert [replace(one, trace=None) for one in found] == alone
    assert len({one.num_latents for one in found}) > 1, "the rows should stop at unlike steps"


def test_the_rows_of_these_tests_stop_at_once_later_and_never() -> None:
    method, config = thinker("llama"), replace(GENERATE, method=ColarDecoding(latent_noise=1.0))
    found = [slow_answer(method, prompt, config) for prompt in PROMPTS]
    assert len({len(one.latents) for one in found if one.stopped}) > 1
    assert any(not one.stopped for one in found)


def rows(num: int, num_latents: int = 1) -> RowState:
    state = RowState.fresh(row_keys(0, [str(i) for i in range(num)], [0] * num), Mode.LATENT)
    state.num_latents += num_latents
    return state


def test_there_is_at_least_one_latent(llama: Backbone) -> None:
    rule = built(llama).rule(GENERATE)
    assert isinstance(rule, LatentHeadRule)
    logits = torch.zeros(2, len(llama.tokenizer)).double()
    logits[0, llama.layout.close[0]] = 5
    hidden = torch.zeros(2, 32).double()
    assert rule.latent(hidden, logits, rows(2, num_latents=0)).stop.tolist() == [False, False]
    assert rule.latent(hidden, logits, rows(2, num_latents=1)).stop.tolist() == [True, False]


@pytest.mark.parametrize("cap", [0, 1, 4])
def test_the_cap_forces_the_close_marker(backbone_of: BackboneOf, cap: int) -> None:
    """Nothing ever stops here: the marker's first token is never the argmax."""
    method, config = built(backbone_of("gpt2", layout="plain_hash_answer")), replace(GENERATE, max_latents=cap)
    for prompt, found in zip(PROMPTS, method.generate(PROMPTS, config), strict=True):
        expected = slow_answer(method, prompt, config)
        assert not expected.stopped
        assert found.num_latents == cap
        assert found.text == method.backbone.layout.decode(expected.answer)


def test_noise_scales_the_deviation_and_leaves_the_mean(llama: Backbone) -> None:
    method = built(llama)
    hidden = torch.randn(1, 32, generator=torch.Generator().manual_seed(0)).double().expand(4000, 32)
    logits = torch.zeros(4000, len(llama.tokenizer)).double()
    head = method.head(hidden[0])
    for noise in (0.0, 0.5, 1.0):
        rule: Any = method.rule(replace(GENERATE, method=ColarDecoding(latent_noise=noise)))
        drawn = rule.latent(hidden, logits, rows(4000)).embeds.detach() / method.head.scale
        error = 5 * float(head.stddev.detach().max()) * noise / 4000**0.5 + 1e-9
        torch.testing.assert_close(drawn.mean(0), head.mean.detach(), rtol=0, atol=error)
        torch.testing.assert_close(drawn.std(0), noise * head.stddev.detach(), rtol=0, atol=error)


def test_samples_differ_with_noise_and_repeat_for_a_seed(llama: Backbone) -> None:
    method, config = built(llama), replace(GENERATE, method=ColarDecoding(latent_noise=1.0))
    prompts = [replace(PROMPTS[0], sample=sample) for sample in range(2)]

    def latents(seed: int, config: GenerateConfig = config) -> list[Tensor]:
        return [one.trace.embeds for one in method.generate(prompts, config, seed=seed, trace=True) if one.trace]

    first, second = latents(0)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(latents(0)[1], second)
    assert not torch.equal(latents(1)[0][0], first[0])
    assert torch.equal(*latents(0, GENERATE))


@torch.no_grad()
def test_rows_that_stop_apart_are_counted_and_answer_as_alone(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 1 stops after latent 2, row 2 after latent 3 (T13), and their log densities are found again afterwards."""
    method, told = built(llama), torch.tensor([2, 3])
    seen: list[tuple[Tensor, Tensor, list[int]]] = []
    latent = LatentHeadRule.latent

    def scripted(self: LatentHeadRule, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        found = latent(self, hidden, logits, rows)
        seen.append((hidden.clone(), found.embeds, rows.num_latents.tolist()))
        return Latent(found.embeds, rows.num_latents >= told[rows.question])

    config = replace(GENERATE, method=ColarDecoding(latent_noise=1.0), batch_size=2)
    prompts = [Prompt(id="a", text="n0 = 33"), Prompt(id="b", text="n0 = 3")]
    with monkeypatch.context() as patch:
        patch.setattr(LatentHeadRule, "latent", scripted)
        found = method.generate(prompts, config, trace=True)
    assert [one.num_latents for one in found] == [2, 3]
    assert [counts for *_, counts in seen][:4] == [[0, 0], [1, 1], [2, 2], [2, 3]]
    for row, (prompt, one) in enumerate(zip(prompts, found, strict=True)):
        ids = method.prompt_ids(prompt.text, config)
        fed = torch.stack([embeds[row] for _, embeds, _ in seen[: told[row]]])
        at_rollout = torch.stack([method.head.log_density(embeds[row], hidden[row]) for hidden, embeds, _ in seen])
        embeds = torch.cat([llama.embed(torch.tensor(ids)), fed, llama.embed(torch.tensor(llama.layout.close))])
        hidden = llama.model(inputs_embeds=embeds[None], output_hidden_states=True).hidden_states[-1][0]
        again = method.head.log_density(fed, hidden[len(ids) - 1 : len(ids) - 1 + len(fed)])
        torch.testing.assert_close(again, at_rollout[: len(fed)], rtol=1e-8, atol=1e-8)
        answer: list[int] = []
        while len(answer) < config.max_new_tokens:
            token = int(llama.model(inputs_embeds=embeds[None]).logits[0, -1].argmax())
            if token == llama.layout.eos:
                break
            answer.append(token)
            embeds = torch.cat([embeds, llama.embed(torch.tensor([token]))])
        assert one.text == llama.layout.decode(answer)


# input that cannot be used


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"max_speed": 0}, "method.max_speed must be >= 1, got 0"),
        ({"speeds": [1, 0]}, "method.speeds.1 must be >= 1, got 0"),
        ({"auto_prob": 2}, "method.auto_prob must be <= 1, got 2"),
        ({"test_speed": -1}, "method.test_speed must be >= 0, got -1"),
        ({"entropy_bonus": 0.1, "latent_loss": "mse"}, "method.entropy_bonus must be 0 with method.latent_loss=mse"),
        ({"latent_loss": "l1"}, "method.latent_loss must be one of 'soft_mse', 'nll', 'mse', got l1"),
    ],
)
def test_bad_settings_are_refused_by_name(bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse({"method": {"name": "colar", **bad}})


def test_no_speed_at_all_and_a_negative_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.speeds"):
        parse({"method": {"name": "colar", "speeds": []}})
    with pytest.raises(ValueError, match=r"generate\.method\.thinking_speed must be >= 0, got -1"):
        parse({"method": "colar"}, overrides=["generate.method.thinking_speed=-1"])


def test_data_without_steps_are_refused(tmp_path: Path) -> None:
    method = built(Backbone.load(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu")))
    bare = [example.without_steps(None) for example in EXAMPLES]
    with pytest.raises(ValueError, match=r"none of 4 training examples .*\(no reasoning steps to compress\)"):
        train_method(method, bare, TrainConfig(), folder=tmp_path / "bare", seed=0)
    mixed = [*EXAMPLES, *bare[:1]]
    report = train_method(method, mixed, TrainConfig(max_steps=1), folder=tmp_path / "mixed", seed=0)
    assert report.skipped == {"no reasoning steps to compress": 1}


def test_a_model_that_cannot_stop_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu")
    model = AutoModelForCausalLM.from_config(tiny_config(16, 1, 2, 16))
    backbone = Backbone(model, tiny_tokenizer(), config, name="bare")
    backbone.layout.close = ()
    with pytest.raises(ValueError, match="stops at the close marker, which bare has not; load it with markers"):
        train_method(built(backbone), EXAMPLES, TrainConfig(), folder=tmp_path, seed=0)


def test_a_deterministic_head_draws_nothing() -> None:
    noisy = GenerateConfig(method=ColarDecoding(latent_noise=1.0))
    assert ColarConfig().draws(noisy)
    assert not ColarConfig(latent_loss="mse").draws(noisy)
    assert ColarConfig(latent_loss="mse", min_deviation=0.1).draws(noisy)


@pytest.mark.parametrize("speeds", [(2, 5), (1,)])
@pytest.mark.parametrize("auto_prob", [0.0, 0.5])
def test_rows_that_do_not_fit_at_some_speed_are_skipped(
    backbone_of: BackboneOf, speeds: tuple[int, ...], auto_prob: float
) -> None:
    backbone = backbone_of("gpt2")  # context 256
    method = built(backbone, speeds=speeds, auto_prob=auto_prob)
    fits = []
    for num in range(190, 470):
        example = chain("a" * num, str(num))
        if method.skip_reason(example, STAGE) is None:
            fits.append(example)
        else:
            assert method.skip_reason(example, STAGE) == "longer than the context"
    longest = 0
    for step in range(12):
        method.step = step
        for epoch in range(8):
            method.epoch = epoch
            longest = max(longest, int(method.batch(fits[-1:], STAGE).sequence.lengths.max()))
    assert longest == backbone.context
    assert 0 < len(fits) < 280


# runs


ARCHITECTURE = {"llama": "llama", "qwen": "qwen2", "smollm2": "llama"}
STEPS = 2


def small_run(preset: str, tmp_path: Path) -> Run:
    """The preset on a tiny model of its architecture, two optimiser steps for it and for its start."""
    name = None
    if preset != "tiny":
        name = next(found for start, found in ARCHITECTURE.items() if preset.startswith(start))
    changes: dict[str, Any] = {
        "method": {"name": "colar"},
        "task": {"name": "synth", "num_train": 16, "num_test": 3},
        "model": small_model(name, tmp_path / "model"),
        "train": {"batch_size": 2, "accumulation": 2, "stages": {"sft": {"steps": STEPS}}},
        "generate": {"max_new_tokens": 4, "max_latents": 4, "batch_size": 4},
        "start": {"train": {"max_steps": STEPS, "batch_size": 2, "accumulation": 1}},
    }
    return train(parse(changes, preset=preset), runs_dir=tmp_path / "runs")


@pytest.mark.parametrize("preset", [name for name in tree.presets("colar") if not name.endswith("-rl")])
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    run, usual = small_run(preset, tmp_path), tree.preset("colar", preset)["method"]
    for key, value in usual.items():
        assert getattr(run.config.method, key) == (tuple(value) if isinstance(value, list) else value)
    assert run.report["report"]["optimiser_steps"] == STEPS
    assert run.report["costs"]["optimiser_steps"] == 2 * STEPS
    scale = run.report["diagnostics"]["latent_head"]["embedding_scale"]
    assert scale == pytest.approx(usual.get("embedding_scale", scale))
    assert len(read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records) == 3


def test_each_speed_is_an_evaluation_of_its_own(tmp_path: Path) -> None:
    """Without training again."""
    run = small_run("tiny", tmp_path)
    jobs = [EvalJob.of(run, "synth", limit=3)]
    jobs += [EvalJob.of(run, "synth", limit=3, changes={"generate.method.thinking_speed": c}) for c in (0, 5)]
    read = [read_evaluation(evaluate(job)) for job in jobs]
    assert len({job.folder for job in jobs}) == 3
    assert len({one.manifest.setting for one in read}) == 3
    said = [[text for text in one.manifest.variant.split() if "speed" in text] for one in read]
    assert said[1] == [*said[0], "generate.thinking_speed=0"]
    assert said[2] == [*said[0], "generate.thinking_speed=5"]
    prompts = [[record.num_prompt_tokens for record in one.records] for one in read]
    assert [auto - two for two, auto in zip(prompts[0], prompts[1], strict=True)] == [3, 3, 3]  # letters are tokens
    assert prompts[2] == prompts[0]


@pytest.mark.slow
def test_a_few_examples_are_learnt_at_three_speeds(tmp_path: Path) -> None:
    """The last latent stops, the others do not, and the prompt sets how many there are."""
    model = ModelConfig(hidden_size=64, num_layers=2, mlp_size=128, device="cpu")
    backbone = Backbone.load(model, seed=1)
    examples = EXAMPLES[1:]
    cot = TrainConfig(epochs=100, batch_size=4, lr=5e-3)  # whose tables then stay
    train_method(Cot(backbone, CotConfig()), examples, cot, folder=tmp_path / "cot", seed=0)
    method = built(backbone, speeds=(1, 2, 5))

    @torch.no_grad()
    def stop_probability() -> float:
        method.step = 0
        batch = method.batch(examples, STAGE)
        embeds = backbone.embed(batch.sequence.ids)
        z = compress(backbone.embed(batch.chunk_ids), batch.chunk_mask, batch.c, "sqrt")
        last = batch.is_latent & ~batch.is_latent.roll(-1, 1)
        output = backbone.causal(
            embeds.masked_scatter(batch.is_latent[..., None], z), batch.sequence.positions, select=last
        )
        return float(output.logits.softmax(-1)[:, backbone.layout.close[0]].mean())

    before = stop_probability()
    config = TrainConfig(epochs=600, batch_size=4, lr=2e-3)
    train_method(method, examples, config, folder=tmp_path / "colar", seed=0)
    assert before < 0.1
    assert stop_probability() > 0.9
    for c in (1, 2, 5):
        found = method.generate(
            [e.question for e in examples], GenerateConfig(method=ColarDecoding(thinking_speed=c), max_latents=64)
        )
        expected = [ceil(backbone.num_step_tokens(example) / c) for example in examples]
        assert [one.num_latents for one in found] == expected
        assert [one.text for one in found] == [example.answer for example in examples]
