"""What the loop spares: prefixes and prompts computed once, columns and rows that nobody needs. Answers stay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import FixedLatents, RowState, Step, StepRule
from latbench.model import cache
from latbench.model.backbone import Backbone
from latbench.model.batches import Tokens
from latbench.model.cache import SlotCache
from tests.generations import num_reasoning_tokens

INSTRUCTION = "Answer with a number and nothing else. "
QUESTIONS = [INSTRUCTION + text for text in ("7", "n0 = 3 + 4 ;n0 ?", "x", "7", "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?", "7")]


def answers(
    backbone: Backbone, batch_size: int, questions: list[str] = QUESTIONS, *, latents: int = 0
) -> list[Generation]:
    backbone.model.generation_config.eos_token_id = list(range(0, len(backbone.tokenizer), 3))  # rows end apart
    prompts = [Prompt(id=question, text=question) for question in questions]
    ids = [backbone.prompt(question) for question in questions]
    rule = FixedLatents(backbone, latents) if latents else StepRule(backbone)
    return decode(backbone, ids, prompts, rule, GenerateConfig(batch_size=batch_size, max_new_tokens=20))


def one_by_one(backbone: Backbone, questions: list[str] = QUESTIONS, *, latents: int = 0) -> list[Generation]:
    """Of calls that share nothing."""
    return [answers(backbone, 1, [question], latents=latents)[0] for question in questions]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_a_shared_prefix_and_equal_prompts_change_no_answer(backbone: Backbone, batch_size: int) -> None:
    assert answers(backbone, batch_size, latents=2) == one_by_one(backbone, latents=2)


def test_each_prompt_token_is_prefilled_once(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = llama.fill

    def counted(slots: SlotCache, tokens: Tokens, rows: torch.Tensor) -> None:
        filled.append(int(tokens.mask.sum()))
        fill(slots, tokens, rows)

    monkeypatch.setattr(llama, "fill", counted)
    answers(llama, 64)
    different = [llama.prompt(question)[:-1] for question in dict.fromkeys(QUESTIONS)]
    prefix = len(llama.prompt(INSTRUCTION)) - len(llama.layout.open)
    assert filled[0] == prefix
    assert sum(filled) == prefix + sum(len(ids) - prefix for ids in different)


@pytest.mark.parametrize("latents", [0, 3])
def test_attention_to_live_columns_alone_changes_no_answer(
    backbone: Backbone, latents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answers(backbone, 4, latents=latents)
    monkeypatch.setattr(cache, "CALL_BYTES", 1)
    used: list[object] = []
    spans = SlotCache.spans
    monkeypatch.setattr(SlotCache, "spans", lambda slots: used.append(spans(slots)) or used[-1])
    assert answers(backbone, 4, latents=latents) == whole
    assert any(used) == backbone.takes_blocks


@pytest.mark.parametrize("lengths", [[9, 9, 2, 30, 29, 0, 0, 12, 1], [7, 7, 7], [4], [5, 6, 5, 6]])
@pytest.mark.parametrize("allowed", [0, 3, 20, 10_000])
def test_spans_cover_the_slots_in_order_and_waste_little(
    lengths: list[int], allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = SlotCache(len(lengths), 1)
    zeros = torch.zeros(len(lengths), 1, 1, 4)
    slots.reserve(torch.tensor(lengths)[:, None], torch.ones(len(lengths), 1, dtype=torch.bool))
    slots.hf.update(zeros, zeros, 0)
    monkeypatch.setattr(cache, "CALL_BYTES", allowed * slots.layers[0].column_bytes)
    spans = slots.spans()
    used = [length + 1 for length in lengths]
    if spans is None:
        assert min(used) < max(used)
        assert slots.columns.width * len(used) - sum(used) <= allowed
        return
    assert (spans[0].first, spans[-1].end) == (0, len(used))
    assert all(before.end == after.first for before, after in pairwise(spans))
    for first, end, width, even in spans:
        assert width == max(used[first:end])
        assert even == (len(set(used[first:end])) == 1)
        assert width * (end - first) - sum(used[first:end]) <= allowed


class OneAfterAnother(StepRule):
    """Ends the row of question n after n tokens."""

    def step(self, hidden: torch.Tensor, logits: torch.Tensor, rows: RowState) -> Step:
        """See StepRule."""
        step = super().step(hidden, logits, rows)
        step.token = torch.where(rows.steps >= rows.question, self.backbone.layout.eos, step.token.clamp(min=10))
        return step


def test_a_batch_shrinks_while_the_last_rows_go_on(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    advance = llama.advance

    def watched(slots: SlotCache, embeds: torch.Tensor, *rest: torch.Tensor) -> object:
        sizes.append(len(embeds))
        return advance(slots, embeds, *rest)

    monkeypatch.setattr(llama, "advance", watched)
    prompts = [Prompt(id=str(number), text=f"{INSTRUCTION}{number}") for number in range(24)]
    ids = [llama.prompt(prompt.text) for prompt in prompts]
    rule, config = OneAfterAnother(llama), GenerateConfig(batch_size=24, max_new_tokens=30)
    found = decode(llama, ids, prompts, rule, config)
    assert [answer.num_reasoning_tokens for answer in found] == list(range(24))
    live = [24 - passed for passed in range(24)]
    assert all(0 <= size - rows < max(1, size // 8) for rows, size in zip(live, sizes, strict=True))
    for prompt, answer in zip(prompts, found, strict=True):
        cap = GenerateConfig(max_new_tokens=max(1, num_reasoning_tokens(answer)))
        (alone,) = decode(llama, [llama.prompt(prompt.text)], [prompt], Capped(llama), cap)
        assert answer.num_reasoning_tokens == 0 or alone.reasoning == answer.reasoning


class Capped(StepRule):
    """The same tokens, ended by the cap alone."""

    def step(self, hidden: torch.Tensor, logits: torch.Tensor, rows: RowState) -> Step:
        """See StepRule."""
        step = super().step(hidden, logits, rows)
        step.token = step.token.clamp(min=10)
        return step


def test_windows_reach_into_the_shared_prefix(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("gemma3")
    assert len(INSTRUCTION) > backbone.text_config.sliding_window
    assert answers(backbone, 3) == one_by_one(backbone)


def test_the_slots_of_a_call_are_freed_when_it_returns(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[SlotCache]] = []
    share = SlotCache.share

    def watched(slots: SlotCache, slot: int, length: int) -> None:
        alive.append(weakref.ref(slots))
        share(slots, slot, length)

    monkeypatch.setattr(SlotCache, "share", watched)
    gc.disable()  # a collection by chance would hide a cycle
    try:
        answers(llama, 4)
        assert [slots() for slots in alive] == [None]
    finally:
        gc.enable()
