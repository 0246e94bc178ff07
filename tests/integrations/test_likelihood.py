"""Scores of given continuations, against slow loops written here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from latbench import registry
from latbench.config import GenerateConfig
from latbench.decoding.loop import unroll
from latbench.decoding.rule import Mode, RowState
from latbench.integrations.likelihood import after_text, after_thinking
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.batches import pad

CONFIG = GenerateConfig(max_new_tokens=5, max_latents=10, batch_size=3)
QUESTIONS = ["n0=3+4; n0?", "n0=2; n1=n0*7; n1=?", "a?"]
CHOICES = ["9", "40", "41", " a longer one", "4"]  # 40 and 41 share all but the last token
PAIRS = [(question, choice) for question in QUESTIONS for choice in CHOICES]


@pytest.fixture(params=registry.method_names())
def method(request: pytest.FixtureRequest, llama: Backbone) -> Method[Any]:
    """Each registered method on a random backbone in float64."""
    torch.manual_seed(7)
    entry = registry.get_method(request.param)
    made: Method[Any] = entry.cls(llama, entry.config())
    return made.to(torch.float64).eval()


@torch.no_grad()
def logprobs_after(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    """(seq, vocab) of one sequence, without cache."""
    tokens = pad([ids])
    return backbone.causal(backbone.embed(tokens.ids), tokens.positions, tokens.mask).logits.log_softmax(-1)


@torch.no_grad()
def slow(method: Method[Any], question: str, continuation: str, config: GenerateConfig) -> tuple[float, bool]:
    """Think alone and score what follows: latent steps unrolled, text written token by token without a cache."""
    backbone, rule = method.backbone, method.rule(config)
    close = list(backbone.layout.close)
    answer = list(backbone.tokenizer.encode(continuation.lstrip(), add_special_tokens=False))
    ids = method.prompt_ids(question, config)
    if rule.start == Mode.LATENT:
        state = backbone.prefill(pad([ids]))
        state = unroll(
            backbone,
            state,
            rule,
            rows=RowState.fresh(torch.zeros(1).long(), rule.start),
            max_latents=config.max_latents,
        )
        logits = backbone.extend(state, pad([close + answer]))[0, len(close) :]
        scores = logits.log_softmax(-1)
    else:
        thought: list[int] = []
        while ids[-len(close) :] != close and len(thought) < config.max_new_tokens:
            thought.append(int(logprobs_after(backbone, ids)[-1].argmax()))
            if thought[-1] in backbone.eos_ids:
                break
            ids = [*ids, thought[-1]]
        if ids[-len(close) :] != close:
            ids = [*ids, *close]
        scores = logprobs_after(backbone, ids + answer)[len(ids) - 1 : -1]
    wanted = torch.tensor(answer)
    return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(-1) == wanted).all())


def test_every_method_thinks_before_a_continuation_is_scored(method: Method[Any]) -> None:
    found = after_thinking(method, PAIRS, CONFIG)
    expected = [slow(method, question, choice, CONFIG) for question, choice in PAIRS]
    assert [score.logprob for score in found] == pytest.approx([total for total, _ in expected], abs=1e-8)
    assert [score.is_greedy for score in found] == [greedy for _, greedy in expected]
    assert len({round(score.logprob, 6) for score in found}) > len(CHOICES)  # the question counts


def test_neither_batch_nor_order_changes_a_score(method: Method[Any]) -> None:
    found = after_thinking(method, PAIRS, CONFIG)
    backwards = after_thinking(method, PAIRS[::-1], replace(CONFIG, batch_size=1))[::-1]
    assert [score.logprob for score in found] == pytest.approx([score.logprob for score in backwards], abs=1e-8)


def test_what_a_method_would_write_is_greedy_and_its_rivals_are_not(llama: Backbone) -> None:
    entry = registry.get_method("direct")
    method: Method[Any] = entry.cls(llama, entry.config())
    questions = [f"n{number}?" for number in range(24)]
    answers = method.generate(questions, replace(CONFIG, max_new_tokens=1))
    written = [(question, answer.text) for question, answer in zip(questions, answers, strict=True)]
    kept = [(question, text) for question, text in written if len(text) == 1 and text.isascii() and text.strip()]
    assert len(kept) > 2
    for question, text in kept:
        same, other = after_thinking(method, [(question, text), (question, chr(ord(text) ^ 1))], CONFIG)
        assert same.is_greedy
        assert not other.is_greedy
        assert same.logprob > other.logprob


def test_text_is_scored_as_one_sequence_and_shared_inputs_are_run_once(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, other = llama.encode("n0=3+4; n0="), llama.encode("x")
    nine, seventy, longer = (llama.encode(text) for text in ("9", "7", "7 and more"))
    pairs = [(context, nine), (other, longer), (context, seventy), (context, longer), (context[:-1], context[-1:])]
    widths: list[int] = []
    causal = llama.causal
    monkeypatch.setattr(llama, "causal", lambda embeds, *rest: widths.append(len(embeds)) or causal(embeds, *rest))
    found = after_text(llama, pairs, batch_size=2)
    assert sum(widths) == 4  # the two one-token continuations share a row
    for (before, after), score in zip(pairs, found, strict=True):
        rows = logprobs_after(llama, [*before, *after])[len(before) - 1 : -1]
        assert score.logprob == pytest.approx(float(rows.gather(1, torch.tensor(after)[:, None]).sum()), abs=1e-9)
        assert score.is_greedy == bool((rows.argmax(-1) == torch.tensor(after)).all())


def test_a_context_that_is_too_long_loses_its_beginning(llama: Backbone) -> None:
    text, end = list(range(5, 205)) * 2, [7, 8]
    (found,) = after_text(llama, [(text, end)], batch_size=1)
    (expected,) = after_text(llama, [((text + end)[-llama.context - 1 : -2], end)], batch_size=1)
    assert found == expected
    with pytest.raises(ValueError, match="a continuation has 400 tokens and the model's context 256"):
        after_text(llama, [([1], text)], batch_size=1)


def test_a_thought_leaves_room_for_the_continuation(llama: Backbone) -> None:
    entry = registry.get_method("coconut")
    method: Method[Any] = entry.cls(llama, entry.config())
    free = llama.context - len(method.prompt_ids("")) - len(llama.layout.close)
    config = replace(CONFIG, max_latents=100, max_new_tokens=100)
    for num_latents in (0, 3):
        question = "a" * (free - num_latents)  # a byte is a token, the continuation's last one is not read
        assert after_thinking(method, [(question, "9")], config)[0].logprob < 0
    with pytest.raises(ValueError, match=r"has 257 tokens and the model's context 256; give fewer examples"):
        after_thinking(method, [("a" * (free + 1), "9")], config)


def test_an_empty_continuation_is_one_sentence(llama: Backbone) -> None:
    entry = registry.get_method("cot")
    with pytest.raises(ValueError, match=r"a continuation of the question 'n1\?' is empty; give each choice"):
        after_thinking(entry.cls(llama, entry.config()), [("n1?", "9"), ("n1?", "")], CONFIG)


def test_a_model_without_a_close_marker_cannot_think_first(llama: Backbone) -> None:
    bare = Backbone(llama.model, llama.tokenizer, llama.config, name="bare", markers=False)
    bare.layout.close = ()
    entry = registry.get_method("cot")
    with pytest.raises(ValueError, match=r"bare has no close marker .*think=false"):
        after_thinking(entry.cls(bare, entry.config()), [("a?", "9")], CONFIG)
