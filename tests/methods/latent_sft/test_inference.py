"""Latent decoding against a slow loop that runs the model anew at every step, and its stops, caps and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import Mode, RowState, StepRule
from latbench.decoding.sampling import gumbel, row_keys
from latbench.decoding.superposition import with_gumbel
from latbench.model.backbone import Backbone
from methods.latent_sft import LatentSFT, LatentSFTConfig
from methods.latent_sft.config import LatentSFTDecoding
from methods.latent_sft.method import NOISE_DRAW, SuperpositionRule
from tests.methods.latent_sft.latent_sft_cases import random_latents

BackboneOf = Callable[..., Backbone]
QUESTIONS = [f"n{i} = {7 * i % 11} + {i}; {'n1 = 2; ' * (i % 3)}n0 = ?" for i in range(8)]
PROMPTS = [Prompt(id=str(i), text=question) for i, question in enumerate(QUESTIONS)]
GENERATE = GenerateConfig(max_new_tokens=8, max_latents=7, batch_size=3)


LENGTHS = {"llama": -3.0, "llama_untied": -4.0, "qwen2": 1.5, "gpt2": 3.0}  # with these, rows stop at unlike steps


def stopping(backbone: Backbone) -> Backbone:
    """The backbone with a longer row for the close marker, which then wins at some steps and loses at others."""
    model = backbone.model
    with torch.no_grad():
        for table in {
            id(t): t for t in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        }.values():
            row = table[backbone.layout.close[0]]
            row.mul_(LENGTHS[backbone.name] * float(table.norm(dim=1).mean() / row.norm()))
    return backbone


def thinker(backbone: Backbone, **settings: Any) -> LatentSFT:
    return LatentSFT(backbone, LatentSFTConfig(**settings)).eval()


@dataclass
class Slow:
    """What the slow loop found: the latents fed, and the ids after the close marker, EOS left out."""

    latents: list[Tensor]
    answer: list[int]
    stopped: bool


@torch.no_grad()
def slow(method: LatentSFT, prompt: Prompt, config: GenerateConfig, *, seed: int = 0) -> Slow:
    """One prompt without cache, written from section 7.1: the whole sequence again at every step."""
    backbone, layout = method.backbone, method.backbone.layout
    embeds = backbone.embed(torch.tensor(method.prompt_ids(prompt.text)))

    def last(embeds: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(len(embeds))[None]
        output = backbone.causal(embeds[None], positions, select=positions == len(embeds) - 1)
        return output.hidden[0], output.logits[0]

    key, stopped = row_keys(seed, [prompt.id], [prompt.sample]), False
    latents: list[Tensor] = []
    while len(latents) < config.max_latents:
        hidden, logits = last(embeds)
        if int(logits.argmax()) == layout.close[0]:
            stopped = True
            break
        z = hidden
        if method.config.latent_space == "vocab":
            scores, ids = logits.topk(min(method.config.top_k or len(logits), len(logits)))
            weights = scores.float().softmax(-1)
            if config.own(LatentSFTDecoding).latent_noise:
                noise = gumbel(key, torch.tensor([len(latents)]), NOISE_DRAW, len(ids))[0]
                weights = with_gumbel(weights, noise, scale=config.own(LatentSFTDecoding).latent_noise)
            z = (weights.double()[:, None] * backbone.embed(ids)).sum(0)
        latents.append(z)
        embeds = torch.cat([embeds, z[None]])
    embeds = torch.cat([embeds, backbone.embed(torch.tensor(layout.close))])
    answer: list[int] = []
    while len(answer) < config.max_new_tokens:
        token = int(last(embeds)[1].argmax())
        if token == layout.eos:
            break
        answer.append(token)
        embeds = torch.cat([embeds, backbone.embed(torch.tensor([token]))])
    return Slow(latents, answer, stopped)


def same(method: LatentSFT, found: Generation, expected: Slow) -> None:
    assert found.num_latents == len(expected.latents)
    assert found.text == method.backbone.layout.decode(expected.answer)
    assert found.num_answer_tokens == len(expected.answer)
    assert (found.num_reasoning_tokens, found.reasoning, found.closed) == (0, "", True)
    if expected.latents:
        assert found.trace is not None
        torch.testing.assert_close(found.trace.embeds, torch.stack(expected.latents).float(), rtol=1e-4, atol=1e-4)
    else:
        assert found.trace is None


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {}),
    ("llama_untied", {"top_k": 3}, {}),
    ("qwen2", {"top_k": None}, {}),
    ("gpt2", {}, {"layout": "plain_hash_answer"}),
    ("llama", {}, {"attention": "eager"}),
    ("llama", {"latent_space": "hidden", "noise": 0.0}, {}),
]


@pytest.mark.parametrize(("name", "settings", "model"), CASES)
def test_cached_batches_equal_the_slow_loop(
    backbone_of: BackboneOf, name: str, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    """Rows that stop at once, at unlike steps and never; the layout `coconut` closes with three tokens."""
    method = thinker(stopping(backbone_of(name, **model)), **settings)
    found = method.generate(PROMPTS, GENERATE, trace=True)
    expected = [slow(method, prompt, GENERATE) for prompt in PROMPTS]
    for generation, one in zip(found, expected, strict=True):
        same(method, generation, one)
    assert len({len(one.latents) for one in expected}) > 1, "the rows should stop at unlike steps"


def test_the_rows_of_these_tests_stop_at_once_later_and_never(backbone_of: BackboneOf) -> None:
    method = thinker(stopping(backbone_of("llama")))
    expected = [slow(method, prompt, GENERATE) for prompt in PROMPTS]
    assert any(not one.latents for one in expected)
    assert any(one.latents and one.stopped for one in expected)
    assert any(not one.stopped for one in expected)


def test_batches_equal_single_rows(backbone_of: BackboneOf) -> None:
    method = thinker(stopping(backbone_of("llama")))
    together = method.generate(PROMPTS, GENERATE)
    assert together == [method.generate([prompt], GENERATE)[0] for prompt in PROMPTS]
    assert together == method.generate(PROMPTS, replace(GENERATE, batch_size=len(PROMPTS)))


@pytest.mark.parametrize("cap", [0, 1, 4])
def test_the_cap_forces_the_close_marker(backbone_of: BackboneOf, cap: int) -> None:
    """Nothing ever stops here: the marker's first token is never the argmax."""
    backbone = backbone_of("gpt2", layout="plain_hash_answer")
    method = thinker(backbone)
    config = replace(GENERATE, max_latents=cap)
    for prompt, found in zip(PROMPTS, method.generate(PROMPTS, config, trace=True), strict=True):
        expected = slow(method, prompt, config)
        assert not expected.stopped
        assert found.num_latents == cap
        same(method, found, expected)


def test_no_latent_at_all_goes_straight_to_the_marker(backbone_of: BackboneOf) -> None:
    """A zero-latent row answers as the prompt with its close marker would."""
    method = thinker(stopping(backbone_of("llama")))
    for prompt, found in zip(PROMPTS, method.generate(PROMPTS, GENERATE), strict=True):
        if found.num_latents == 0:
            ids = method.backbone.closed_prompt(prompt.text)
            closed = decode(method.backbone, [ids], [prompt], StepRule(method.backbone), GENERATE)[0]
            assert found.text == closed.text
            break
    else:
        pytest.fail("no row without latents")


def test_chain_length_counts_latents_alone(backbone_of: BackboneOf) -> None:
    """Of the forward passes after the prompt, latents and the answer's tokens count, marker and EOS do not."""
    method = thinker(stopping(backbone_of("gpt2", layout="plain_hash_answer")))
    for found in method.generate(PROMPTS, GENERATE):
        marker = len(method.backbone.layout.close)
        unfed = 1  # the last token need not be fed
        fed = found.num_latents + marker + found.num_answer_tokens + (found.stop_reason == "eos")
        assert found.decode_steps == fed - unfed


def test_one_entry_is_discrete_decoding_of_the_most_likely_ids(backbone_of: BackboneOf) -> None:
    """Greedy text thinks the same, token by token, as far as it closes by itself."""
    backbone = stopping(backbone_of("llama"))
    method = thinker(backbone, top_k=1)
    config = replace(GENERATE, max_new_tokens=30, max_latents=30)
    latent = method.generate(PROMPTS, config, trace=True)
    ids = [method.prompt_ids(question) for question in QUESTIONS]
    text = decode(backbone, ids, PROMPTS, StepRule(backbone), replace(config, max_new_tokens=60))
    compared = 0
    for one, other in zip(latent, text, strict=True):
        if not other.closed or one.num_latents >= 30:
            continue
        compared += one.num_latents > 0
        assert one.num_latents == other.num_reasoning_tokens
        assert one.text == other.text[: len(one.text)]
        if one.trace is not None:
            assert backbone.layout.decode(one.trace.ids[:, 0].tolist()) == other.reasoning
            fed = backbone.embed(one.trace.ids[:, 0].long()).float()
            torch.testing.assert_close(one.trace.embeds, fed, rtol=1e-5, atol=1e-5)
    assert compared >= 2, "rows should think and close"


# noise


NOISY = replace(GENERATE, method=LatentSFTDecoding(latent_noise=1.0))


def samples(num: int) -> list[Prompt]:
    return [replace(prompt, sample=sample) for prompt in PROMPTS[:4] for sample in range(num)]


def test_noisy_rows_follow_the_slow_loop(backbone_of: BackboneOf) -> None:
    method = thinker(stopping(backbone_of("llama")))
    for prompt, found in zip(samples(2), method.generate(samples(2), NOISY, seed=3, trace=True), strict=True):
        same(method, found, slow(method, prompt, NOISY, seed=3))


def traced(method: LatentSFT, prompts: list[Prompt], config: GenerateConfig, seed: int = 0) -> list[Tensor]:
    found = method.generate(prompts, config, seed=seed, trace=True)
    return [torch.zeros(0) if one.trace is None else one.trace.embeds for one in found]


def test_samples_differ_with_noise_and_repeat_for_a_seed(backbone_of: BackboneOf) -> None:
    method = thinker(backbone_of("llama"))
    first = traced(method, samples(3), NOISY)
    for row in range(0, 12, 3):
        assert not torch.equal(first[row], first[row + 1])
        assert not torch.equal(first[row + 1], first[row + 2])
    for one, again in zip(first, traced(method, samples(3), NOISY), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(first[0], traced(method, samples(3), NOISY, seed=1)[0])


def test_samples_are_equal_without_noise(backbone_of: BackboneOf) -> None:
    found = traced(thinker(backbone_of("llama")), samples(2), GENERATE)
    for row in range(0, 8, 2):
        assert torch.equal(found[row], found[row + 1])


def rows(num: int) -> RowState:
    return RowState.fresh(row_keys(0, [str(i) for i in range(num)], [0] * num), Mode.LATENT)


def test_noise_neither_stops_nor_keeps_a_row_from_stopping(backbone_of: BackboneOf) -> None:
    """The close marker a hair above the runner-up always stops, a hair below never does."""
    backbone = backbone_of("llama")
    config = replace(GENERATE, method=LatentSFTDecoding(latent_noise=50.0))
    rule = SuperpositionRule(backbone, LatentSFTConfig(), config)
    hidden = random_latents(backbone, 200)
    logits = torch.zeros(200, len(backbone.tokenizer)).double()
    close = backbone.layout.close[0]
    logits[:, 50], logits[:, close] = 5.0, 5.001
    logits[::2, close] = 4.999
    assert rule.latent(hidden, logits, rows(200)).stop.tolist() == [False, True] * 100


def test_noise_keeps_the_support_of_the_clean_mixture(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    hidden, logits = random_latents(backbone, 50), torch.randn(50, len(backbone.tokenizer)).double()
    clean, noisy = (
        SuperpositionRule(backbone, LatentSFTConfig(), config).latent(hidden, logits, rows(50)).mixture
        for config in (GENERATE, NOISY)
    )
    assert clean is not None
    assert noisy is not None
    assert torch.equal(clean.ids, noisy.ids)
    assert ((clean.weights - noisy.weights).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("top_k", [10, None])
def test_a_trace_holds_the_mixture_that_was_fed(backbone_of: BackboneOf, top_k: int | None) -> None:
    """All entries of it are kept here, so that they mix to the embedding."""
    backbone = backbone_of("llama")
    config = replace(NOISY, trace_top_k=len(backbone.tokenizer))
    for found in thinker(backbone, top_k=top_k).generate(PROMPTS[:2], config, trace=True):
        assert found.trace is not None
        with torch.no_grad():
            mixed = backbone.mix(found.trace.ids.long(), found.trace.weights)
        torch.testing.assert_close(mixed.float(), found.trace.embeds, rtol=1e-4, atol=1e-4)
