"""Soft Thinking and its relatives: golden values, slow references, ends of thinking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from latbench.config import GenerateConfig, parse, tree
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import Mode, RowState, Step
from latbench.decoding.sampling import Sampling, dirichlet, row_keys
from latbench.decoding.superposition import entropy
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.model.backbone import Backbone
from latbench.runs.run import Run
from latbench.runs.train import base_run, train
from methods import soft_thinking
from methods.cot import Cot, CotConfig
from methods.direct import Direct, DirectConfig
from methods.soft_thinking import SoftRule, SoftThinking, SoftThinkingConfig, cold_stop, posterior
from tests.conftest import small_model
from tests.generations import num_emitted, num_reasoning_tokens

BackboneOf = Callable[..., Backbone]

QUESTIONS = ["n0 = 3 + 4 ;n0 ?", "x", "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?", "é", "a longer question of many bytes", "7"]
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
UNFILTERED: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "cold_stop_entropy": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 1.5, "top_k": 40, "top_p": 0.95}
WORD = 10  # an id that is neither EOS nor a marker
VARIANTS = ["soft", "gumbel", "dirichlet", "moi", "discrete"]


def built(backbone: Backbone, **settings: Any) -> SoftThinking:
    return SoftThinking(backbone, SoftThinkingConfig(**settings)).eval()


def answers(method: Any, questions: list[str] = QUESTIONS, *, trace: bool = False, **settings: Any) -> list[Generation]:
    """Each question with the same id whatever stands beside it."""
    prompts = [Prompt(id=question, text=question) for question in questions]
    generate = GenerateConfig(**{"max_new_tokens": 12, "max_latents": 10, "batch_size": 3, **settings})
    return list(method.generate(prompts, generate, seed=5, trace=trace))


def rows_of(num: int) -> RowState:
    return RowState.fresh(row_keys(0, [str(i) for i in range(num)], [0] * num), Mode.LATENT)


def concept(backbone: Backbone, logits: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """Ids and float weights of one step; (batch, vocab) logits."""
    mixed = SoftRule(backbone, SoftThinkingConfig(**settings), GenerateConfig()).concept(logits, rows_of(len(logits)))
    return mixed.ids, mixed.weights.float()


def close(found: Tensor, expected: list[float], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found.float(), torch.tensor(expected), atol=tolerance, rtol=0)


# filters and the concept token


def test_entropy_is_that_of_the_whole_distribution_at_the_temperature() -> None:
    close(entropy(LOGITS), [0.947537])
    close(entropy(LOGITS / 0.6), [0.587660])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"top_k": 3}, [0.665241, 0.244728, 0.090031]),
        ({"top_k": 3, "top_p": 0.9}, [0.731059, 0.268941, 0.0]),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.3}, [0.731059, 0.268941, 0.0]),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.5}, [1.0, 0.0, 0.0]),
    ],
)
def test_filters_apply_in_the_order_of_the_code(filters: dict[str, Any], expected: list[float]) -> None:
    ids, probabilities = Sampling(temperature=1.0, **filters).distribution(LOGITS)
    assert ids.tolist() == [[0, 1, 2]]
    close(probabilities[0], expected)
    keys = rows_of(2000).keys
    chosen = Sampling(temperature=1.0, **filters).choose(LOGITS.expand(2000, 4), keys, torch.zeros_like(keys))
    close(chosen.bincount(minlength=3) / 2000, expected, tolerance=0.04)
    assert set(chosen.tolist()) == {index for index, share in enumerate(expected) if share > 0}


def test_the_concept_token_is_the_mean_embedding_of_the_likeliest(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    ids, weights = concept(backbone, LOGITS, **UNFILTERED, max_topk=2)
    close(weights[0], [0.731059, 0.268941])
    rows = backbone.embed(torch.tensor([0, 1])).float()
    torch.testing.assert_close(
        backbone.mix(ids, weights)[0].float(), 0.731059 * rows[0] + 0.268941 * rows[1], atol=1e-5, rtol=0
    )


def test_one_entry_is_the_output_of_the_embedding_module(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("gemma3", dtype=torch.float32)  # scales inside it
    ids, weights = concept(backbone, torch.randn(1, len(backbone.tokenizer)), **UNFILTERED, max_topk=1)
    assert torch.equal(backbone.mix(ids, weights), backbone.embed(ids[:, 0]))
    assert not torch.allclose(backbone.embed(ids[0]), backbone.model.get_input_embeddings().weight[ids[0]])


# noise


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.5, [0.244201, 0.649590, 0.106209]),
        (1.0, [0.303909, 0.495666, 0.200425]),
        (0.01, [0.0, 1.0, 0.0]),
        (1e6, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_gumbel_softmax_of_given_noise(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch, temperature: float, expected: list[float]
) -> None:
    monkeypatch.setattr(soft_thinking, "gumbel", lambda *_: torch.tensor([[0.0, 1.0, 0.5]]))
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    _, weights = concept(llama, logits, **UNFILTERED, variant="gumbel", gumbel_temperature=temperature)
    close(weights[0], expected, tolerance=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_the_largest_weight_under_gumbel_noise_is_a_sample(llama: Backbone, temperature: float) -> None:
    q = [0.5, 0.3, 0.15, 0.05]
    logits = torch.tensor([q]).log().expand(100_000, 4)
    settings = UNFILTERED | {"top_p": 0.9}  # drops the last
    ids, weights = concept(llama, logits, **settings, variant="gumbel", gumbel_temperature=temperature)
    chosen = ids.gather(-1, weights.argmax(-1, keepdim=True))[:, 0]
    close(chosen.bincount(minlength=4) / 100_000, [share / 0.95 for share in q[:3]] + [0.0], tolerance=0.005)
    assert float(weights[:, 3].max()) == 0


@pytest.mark.parametrize("gamma", [0.02, 1.0, 50.0])
def test_dirichlet_draws_have_its_mean_and_variance(gamma: float) -> None:
    rows = rows_of(30_000)
    q = torch.tensor([0.6, 0.25, 0.15, 0.0], dtype=torch.float64)
    drawn = dirichlet((gamma * q).expand(len(rows.keys), 4), rows.keys, rows.steps, 1)
    assert drawn.isfinite().all()
    torch.testing.assert_close(drawn.sum(-1), torch.ones(len(drawn), dtype=torch.float64))
    torch.testing.assert_close(drawn.mean(0), q, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.var(0), q * (1 - q) / (gamma + 1), atol=0.005, rtol=0.03)
    assert float(drawn[:, 3].max()) == 0
    assert not torch.equal(drawn, dirichlet((gamma * q).expand(len(drawn), 4), rows.keys, rows.steps + 1, 1))


@pytest.mark.parametrize(
    ("a", "b", "cumulative"),
    [
        (1.0, 1.0, lambda x: x),
        (0.5, 0.5, lambda x: 2 / pi * x.sqrt().asin()),
        (5.0, 1.0, lambda x: x**5),
        (2.0, 2.0, lambda x: x**2 * (3 - 2 * x)),
    ],
)
def test_dirichlet_draws_of_two_entries_are_beta(a: float, b: float, cumulative: Callable[[Tensor], Tensor]) -> None:
    rows = rows_of(60_000)
    drawn = dirichlet(torch.tensor([[a, b]]).expand(60_000, 2), rows.keys, rows.steps, 1)[:, 0]
    ranks = (torch.arange(60_000) + 0.5) / 60_000
    distance = float((cumulative(drawn.sort().values) - ranks).abs().max())
    assert distance < 1.63 / 60_000**0.5  # Kolmogorov and Smirnov, 1 %


def test_dirichlet_noise_is_on_what_the_filters_keep_and_before_the_cut(llama: Backbone) -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(20_000, 4)
    settings = UNFILTERED | {"top_k": 3, "variant": "dirichlet", "concentration": 2.0}
    ids, weights = concept(llama, logits, **settings, max_topk=3)
    mean = torch.zeros(len(ids), 4).scatter(1, ids, weights).mean(0)
    close(mean, [4 / 9, 3 / 9, 2 / 9, 0.0], tolerance=0.008)
    ids, weights = concept(llama, logits, **settings, max_topk=1)
    assert (weights == 1).all()
    assert set(ids[:, 0].tolist()) == {0, 1, 2}


# Mixture of Inputs


@pytest.mark.parametrize(
    ("p", "sampled", "beta", "expected"),
    [
        ([0.7, 0.2, 0.1], 1, 1.0, [0.255446, 0.708061, 0.036492]),
        ([0.7, 0.2, 0.1], 1, 0.0, [0.510893, 0.416123, 0.072985]),
        ([0.7, 0.2, 0.1], 1, 4.0, [0.102179, 0.883225, 0.014597]),
        ([0.25] * 4, 0, 1.0, [0.625, 0.125, 0.125, 0.125]),
        ([1.0], 0, 0.5, [1.0]),
        ([1.0, 0.0], 0, 0.0, [1.0, 0.0]),
    ],
)
def test_the_posterior_mean_of_token_and_distribution(
    p: list[float], sampled: int, beta: float, expected: list[float]
) -> None:
    weights = posterior(torch.tensor([p]), beta)[0]
    weights[sampled] += weights[-1]
    close(weights[:-1], expected)


def test_a_sampled_token_outside_the_candidates_loses_no_weight() -> None:
    p = torch.rand(50, 6).softmax(-1)
    for beta in (0.0, 1.0, 7.0):
        torch.testing.assert_close(posterior(p, beta).sum(-1), torch.ones(50))


@pytest.mark.parametrize("settings", [{}, SAMPLED])
def test_a_large_beta_is_plain_text(backbone_of: BackboneOf, settings: dict[str, Any]) -> None:
    backbone = backbone_of("qwen2")
    plain = answers(Cot(backbone, CotConfig()).eval(), **settings)
    assert answers(built(backbone, variant="moi", beta=1e9), **settings) == plain
    assert answers(built(backbone, variant="moi", beta=0.5), **settings) != plain


@pytest.mark.parametrize("ask", [None, "", "Be brief."])
def test_a_model_without_think_tokens_is_asked_as_cot_asks_it(backbone_of: BackboneOf, ask: str | None) -> None:
    backbone = backbone_of("llama", layout="plain_boxed")
    asked = Cot(backbone, CotConfig(ask=ask)).prompt_ids("1 + 1?")
    assert built(backbone, variant="moi", ask=ask).prompt_ids("1 + 1?") == asked


# slow references: everything recomputed, one row, filters by loops


def reference_filters(logits: Tensor, config: SoftThinkingConfig) -> list[tuple[int, float]]:
    """(id, weight) of the concept token, in the spec's order of filters."""
    probabilities = (logits.double() / config.temperature).softmax(-1).tolist()
    kept = sorted(enumerate(probabilities), key=lambda pair: -pair[1])[: config.top_k or None]

    def renormalised(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
        total = sum(share for _, share in pairs)
        return [(token, share / total) for token, share in pairs]

    kept, mass, num = renormalised(kept), 0.0, 0
    while num < len(kept) and mass < config.top_p:
        mass += kept[num][1]
        num += 1
    kept = renormalised(kept[:num])
    kept = renormalised([pair for pair in kept if pair[1] >= config.min_p * kept[0][1]])
    return renormalised(kept[: config.max_topk])


def mean_embedding(backbone: Backbone, pairs: list[tuple[int, float]]) -> Tensor:
    return torch.stack([weight * backbone.embed(torch.tensor(token)) for token, weight in pairs]).sum(0)


def reference(
    backbone: Backbone, config: SoftThinkingConfig, question: str, *, max_new_tokens: int, max_latents: int
) -> tuple[list[list[tuple[int, float]]], list[int], bool]:
    """Soft Thinking with greedy answers. Returns: what each step mixed, ids of the answer, whether it ended by EOS."""
    marker = list(backbone.layout.close)
    embeds = backbone.embed(torch.tensor(backbone.prompt(question)))
    mixed: list[list[tuple[int, float]]] = []
    emitted: list[int] = []
    certain, thinking = 0, True
    while len(emitted) < max_new_tokens:
        positions = torch.arange(len(embeds))[None]
        logits = backbone.model(inputs_embeds=embeds[None], position_ids=positions, use_cache=False).logits[0, -1]
        if not thinking:
            token = int(logits.argmax())
            if token in backbone.eos_ids:
                return mixed, emitted, True
            emitted.append(token)
            following = backbone.embed(torch.tensor([token]))
        else:
            p = (logits / config.temperature).softmax(-1)
            certain = certain + 1 if float(-(p * p.log()).sum()) < config.cold_stop_entropy else 0
            pairs = reference_filters(logits, config)
            stops = pairs[0][0] == marker[0] or certain >= config.cold_stop_steps
            if not stops and pairs[0][0] in backbone.eos_ids:
                return mixed, [], True
            if stops or len(mixed) == max_latents:
                following, thinking = backbone.embed(torch.tensor(marker)), False
            else:
                mixed.append(pairs)
                following = mean_embedding(backbone, pairs)[None]
        embeds = torch.cat([embeds, following])
    return mixed, emitted, False


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0, "top_k": 30, "top_p": 0.8, "min_p": 0.1, "max_topk": 4},
    {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_topk": 40, "cold_stop_entropy": 0.0},
    {"temperature": 1.0, "cold_stop_entropy": 0.3, "cold_stop_steps": 2},
]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("gpt2", "default"),
        ("llama", "default"),
        ("qwen2", "default"),
        ("llama", "plain_hash_answer"),
        ("llama", "boxed_chain"),
    ],
)
def test_a_batch_agrees_with_a_slow_loop_row_by_row(backbone_of: BackboneOf, name: str, layout: str) -> None:
    backbone = backbone_of(name, layout=layout)
    ends = set()
    for settings in SETTINGS:
        ids = range(len(backbone.tokenizer))
        for eos in ([], list(ids[::9]), list(ids[::2])):  # with many ends, as random models have none
            backbone.model.generation_config.eos_token_id = eos
            config = SoftThinkingConfig(**settings)
            found = answers(built(backbone, **settings), QUESTIONS[:4], trace=True, max_latents=7, max_new_tokens=4)
            for question, got in zip(QUESTIONS, found, strict=False):
                with torch.no_grad():
                    mixed, emitted, by_eos = reference(backbone, config, question, max_new_tokens=4, max_latents=7)
                assert got.num_latents == len(mixed)
                assert got.text == backbone.layout.answer_text(emitted)
                assert (got.num_answer_tokens, got.num_reasoning_tokens) == (len(emitted), 0)
                assert (got.stop_reason == "eos") == by_eos
                ends.add((got.closed, got.stop_reason, len(mixed) == 7))
                if got.trace is None:
                    continue
                for step, pairs in enumerate(mixed):
                    weights = got.trace.weights[step][: len(pairs)]
                    close(weights, [weight for _, weight in pairs], tolerance=1e-5)
                    assert got.trace.weights[step][len(pairs) :].sum() == 0
                    torch.testing.assert_close(
                        got.trace.embeds[step],
                        mean_embedding(backbone, pairs).detach().float(),
                        atol=1e-4,
                        rtol=1e-4,
                    )
    assert {(True, "length", True), (False, "eos", False)} <= ends


@torch.no_grad()
def reference_moi(
    backbone: Backbone, question: str, *, beta: float, n: int, temperature: float, max_new_tokens: int
) -> list[int]:
    """Greedy Mixture of Inputs without EOS, by the formula of the code: H (p + beta y) / (1 + beta) + (1 - H) y."""
    embeds = backbone.embed(torch.tensor(backbone.prompt(question)))
    emitted: list[int] = []
    for _ in range(max_new_tokens):
        logits = backbone.model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
        scores, ids = logits.topk(n)
        p = (scores / temperature).softmax(-1)
        h = float(-(p * p.log()).sum()) / log(n)
        y = torch.nn.functional.one_hot(torch.tensor(0), n)  # greedy: the first candidate
        weights = h * (p + beta * y) / (1 + beta) + (1 - h) * y
        emitted.append(int(ids[0]))
        embeds = torch.cat([embeds, (weights @ backbone.embed(ids))[None]])
    return emitted


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_mixture_of_inputs_agrees_with_a_slow_loop(backbone_of: BackboneOf, name: str) -> None:
    backbone = backbone_of(name)
    method = built(backbone, variant="moi", beta=0.7, num_candidates=8, candidate_temperature=4.0)
    for question, got in zip(QUESTIONS, answers(method), strict=True):
        expected = reference_moi(backbone, question, beta=0.7, n=8, temperature=4.0, max_new_tokens=12)
        assert got.reasoning + got.text == backbone.layout.decode(expected)
        assert (got.num_latents, num_emitted(got)) == (0, 12)


# the loop


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_batch_equals_single_rows_with_noise_and_refill(backbone_of: BackboneOf, variant: str, name: str) -> None:
    backbone = backbone_of(name)
    backbone.model.generation_config.eos_token_id = list(range(0, len(backbone.tokenizer), 12))
    method = built(
        backbone, variant=variant, temperature=2.0, top_k=0, cold_stop_entropy=0.5, cold_stop_steps=2, max_topk=5
    )
    whole = answers(method, batch_size=len(QUESTIONS), **SAMPLED)
    assert answers(method, batch_size=2, **SAMPLED) == whole
    assert [answers(method, [question], **SAMPLED)[0] for question in QUESTIONS] == whole
    assert len({(got.num_latents, got.num_reasoning_tokens, got.num_answer_tokens) for got in whole}) > 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", [{"variant": "soft", "max_topk": 1}, {"variant": "discrete", "top_k": 1}])
def test_one_entry_without_noise_is_greedy_decoding(
    backbone_of: BackboneOf, name: str, settings: dict[str, Any]
) -> None:
    backbone = backbone_of(name, dtype=torch.float32)
    ids = torch.tensor([backbone.prompt(QUESTIONS[0])])
    ends = [*backbone.eos_ids, backbone.layout.close[0]]
    out = backbone.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False, pad_token_id=0, eos_token_id=ends
    )
    expected = [token for token in out[0, ids.shape[1] :].tolist() if token not in ends]
    assert len(expected) == 200
    method = built(backbone, cold_stop_entropy=0.0, **settings)
    got = answers(method, QUESTIONS[:1], trace=True, max_latents=200, max_new_tokens=200)[0]
    if settings["variant"] == "soft":
        assert got.trace is not None
        assert got.trace.ids[:, 0].tolist() == expected
    else:
        assert got.reasoning == backbone.layout.decode(expected)


def test_the_control_without_cold_stop_is_plain_sampling(llama: Backbone) -> None:
    plain = answers(Cot(llama, CotConfig()).eval(), **SAMPLED)
    method = built(llama, variant="discrete", min_p=0.0, cold_stop_entropy=0.0, **SAMPLED)
    assert answers(method, **SAMPLED) == plain


@pytest.mark.parametrize(
    "settings",
    [{"variant": "moi", "beta": 1e9}, {"variant": "discrete", "min_p": 0.0, "cold_stop_entropy": 0.0, **SAMPLED}],
)
def test_tokens_that_the_model_suppresses_are_not_written(llama: Backbone, settings: dict[str, Any]) -> None:
    unbound = answers(Cot(llama, CotConfig()).eval(), **SAMPLED)
    llama.suppressed = torch.arange(10, llama.model.config.vocab_size, 2)
    plain = answers(Cot(llama, CotConfig()).eval(), **SAMPLED)
    assert plain != unbound
    assert answers(built(llama, **settings), **SAMPLED) == plain


@pytest.mark.parametrize("variant", ["soft", "gumbel", "dirichlet"])
def test_without_latent_steps_it_is_direct(llama: Backbone, variant: str) -> None:
    expected = [got.text for got in answers(Direct(llama, DirectConfig()).eval())]
    assert [got.text for got in answers(built(llama, variant=variant), max_latents=0)] == expected


class Scripted(SoftRule):
    """The likeliest token of given latent steps is a given one."""

    tokens: dict[int, int]

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        logits = logits.clone()
        for step, token in self.tokens.items():
            logits[(rows.num_latents == step) & (rows.mode == Mode.LATENT), token] += 1e3
        return super().step(hidden, logits, rows)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_a_likeliest_close_marker_ends_the_thinking_and_counts_as_no_step(
    backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    backbone = backbone_of("llama", layout=layout)
    marker = backbone.layout.close
    assert len(marker) == (1 if layout == "default" else 3)  # several: the first ends, the others are forced
    backbone.model.generation_config.eos_token_id = list(range(WORD + 1, len(backbone.tokenizer), 3))
    monkeypatch.setattr(Scripted, "tokens", dict.fromkeys(range(5), WORD) | {5: marker[0]}, raising=False)
    monkeypatch.setattr(soft_thinking, "SoftRule", Scripted)
    for got in answers(built(backbone, cold_stop_entropy=0.0)):
        assert (got.num_latents, got.closed, got.num_reasoning_tokens) == (5, True, 0)
        # latent steps, marker and answer tokens are all that was fed; a last token at the cap is not
        capped = got.stop_reason == "length"
        assert got.decode_steps == 5 + len(marker) + got.num_answer_tokens - capped


def test_a_likeliest_end_of_sequence_ends_the_row_without_an_answer(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "tokens", {0: WORD, 1: WORD, 2: llama.layout.eos}, raising=False)
    monkeypatch.setattr(soft_thinking, "SoftRule", Scripted)
    for got in answers(built(llama, cold_stop_entropy=0.0)):
        assert (got.num_latents, got.closed, got.text, got.stop_reason) == (2, False, "", "eos")
        assert got.decode_steps == 2


# cold stop


def stops(config: SoftThinkingConfig, entropies: list[float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the steps at which it triggers."""
    rows = rows_of(1)
    thinks = torch.tensor([True])
    found = []
    for index, value in enumerate(entropies):
        monkeypatch.setattr(soft_thinking, "entropy", lambda _, value=value: torch.tensor([value]))
        if cold_stop(config, torch.zeros(1, 4), rows, thinks):
            found.append(index)
    return found


def test_cold_stop_triggers_after_n_certain_steps_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SoftThinkingConfig(cold_stop_entropy=0.01, cold_stop_steps=3)
    entropies = [0.5, 0.005, 0.009, 0.01, 0.001, 0.002, 0.003]
    assert stops(config, entropies, monkeypatch) == [6]
    assert stops(config, [0.0] * 9, monkeypatch) == [2, 5, 8]  # it starts anew
    assert stops(SoftThinkingConfig(cold_stop_entropy=0.0, cold_stop_steps=1), [0.0] * 4, monkeypatch) == []


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_cold_stop_reads_the_unfiltered_distribution_at_the_temperature(temperature: float) -> None:
    at = float(entropy(LOGITS / temperature))
    for threshold, expected in ((at * 1.001, True), (at * 0.999, False)):
        config = SoftThinkingConfig(temperature=temperature, top_k=1, cold_stop_entropy=threshold, cold_stop_steps=1)
        assert bool(cold_stop(config, LOGITS, rows_of(1), torch.tensor([True]))) == expected


def test_only_thinking_rows_count(llama: Backbone) -> None:
    config = SoftThinkingConfig(cold_stop_entropy=100.0, cold_stop_steps=2)
    rows = rows_of(2)
    thinks = torch.tensor([True, False])
    found = [cold_stop(config, torch.zeros(2, 4), rows, thinks).tolist() for _ in range(2)]
    assert found == [[False, False], [True, False]]


@pytest.mark.parametrize("variant", ["soft", "gumbel", "dirichlet", "discrete"])
@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_each_row_has_its_own_count_through_refill_and_shrinking_batches(
    backbone_of: BackboneOf, variant: str, layout: str
) -> None:
    backbone = backbone_of("llama", layout=layout)
    method = built(
        backbone, variant=variant, temperature=0.3, concentration=100.0, cold_stop_entropy=100.0, cold_stop_steps=4
    )  # little noise: none draws the marker
    for batch_size in (1, 2, 6):
        found = answers(method, batch_size=batch_size)
        assert {(got.num_latents + num_reasoning_tokens(got), got.closed) for got in found} == {(3, True)}
        assert all(got.num_answer_tokens > 0 for got in found)


def test_an_answer_goes_on_however_certain_it_is(llama: Backbone) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "cold_stop_entropy": 100.0, "cold_stop_steps": 1}
    for variant in ("soft", "discrete"):
        found = answers(built(llama, variant=variant, **settings))
        assert {(got.num_latents + num_reasoning_tokens(got), got.num_answer_tokens) for got in found} == {(0, 12)}


# bad input


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0), ("top_p", 0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 1.5), ("max_topk", 0),
        ("top_k", -1), ("cold_stop_steps", 0), ("cold_stop_entropy", -1), ("gumbel_temperature", 0),
        ("concentration", 0), ("beta", -1), ("num_candidates", 0), ("variant", "hard"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        TypeAdapter(SoftThinkingConfig).validate_python({key: value})


def test_a_model_without_a_marker_has_no_end_of_thinking(llama: Backbone) -> None:
    llama.layout.open = llama.layout.close = ()  # as of a plain chat model
    for variant in ("soft", "gumbel", "dirichlet", "discrete"):
        with pytest.raises(ValueError, match=r"until the close marker, which llama has not; take a model with <think>"):
            answers(built(llama, variant=variant))
    for got in answers(built(llama, variant="moi")):  # cut before any marker of an answer: all of it is chain
        assert got.closed
        assert got.stop_reason == "length"
        assert got.num_reasoning_tokens
        assert got.num_answer_tokens == 0


# presets


def small(preset: str, folder: Path) -> Run:
    """The preset on a tiny random model of its architecture."""
    changes: dict[str, Any] = {
        "method": {"name": "soft_thinking"},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "generate": {"max_new_tokens": 6, "max_latents": 5, "chunk": 2},
    }
    if "start" in tree.preset("soft_thinking", preset):
        changes["model"] = small_model(None if preset == "tiny" else "llama", folder / "model")
        changes["start"] = {"train": {"max_steps": 2, "batch_size": 2}}
        return train(parse(changes, preset=preset), runs_dir=folder / "runs")
    changes["model"] = small_model("qwen2", folder / "model")
    return base_run(parse(changes, preset=preset), runs_dir=folder)


@pytest.mark.parametrize("preset", tree.presets("soft_thinking"))
def test_every_preset_answers(preset: str, tmp_path: Path) -> None:
    run = small(preset, tmp_path)
    for key, value in tree.preset("soft_thinking", preset)["method"].items():
        assert getattr(run.method.config, key) == value
    records = read_evaluation(evaluate(EvalJob.of(run, "synth"))).records
    assert len(records) == 3 * run.config.generate.samples
    latent = run.method.config.variant in ("soft", "gumbel", "dirichlet")
    assert any(record.num_latents for record in records) == latent


def test_the_defaults_are_soft_thinkings() -> None:
    config = parse({"method": "soft_thinking", "model": {"id": "x"}}, preset="qwq32b")
    assert asdict(config.method) == asdict(SoftThinkingConfig())
    assert config.model.id == "x"
