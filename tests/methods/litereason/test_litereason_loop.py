"""Tags in the one decoding loop: a row goes from text to latents and back any number of times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.actions import Kind
from latbench.decoding.loop import Generation, Prompt
from methods.litereason import LiteReason
from methods.litereason.config import LiteReasonDecoding
from methods.litereason.rule import TagRule
from tests.methods.litereason.nudged import FREE, Nudged, method, script

CLOSE = "</think>"


def generate(
    model: LiteReason, scripts: list[list[int]], questions: list[str] | None = None, **settings: Any
) -> list[Generation]:
    """Answers by script, with all steps; `latents`: see LiteReasonDecoding."""
    settings = {"max_new_tokens": 40, "max_latents": 20, "batch_size": 8, **settings}
    only = settings.pop("only", None)
    own = LiteReasonDecoding(latents=settings.pop("latents", "projected"))
    config = GenerateConfig(**settings, method=own)
    texts = questions or [f"n{number} = {number}" for number in range(len(scripts))]
    prompts = [Prompt(id=str(number), text=text) for number, text in enumerate(texts)]
    rule = TagRule(model.backbone, model.tags, model.projector, config)
    rule.sampling = Nudged.of(scripts)
    return model.generate(prompts if only is None else [prompts[only]], config, rule=rule, actions=True)


def uncached(model: LiteReason, question: str, plan: list[int]) -> tuple[list[int], list[Tensor]]:
    """One row, everything recomputed at each step. Returns: what was fed (-1 a latent), and all latents."""
    backbone, tags = model.backbone, model.tags
    prompt = torch.tensor(model.prompt_ids(question))
    embeds, fed, latents, left = backbone.embed(prompt), list[int](), list[Tensor](), 0
    for step in range(len(plan)):
        positions = torch.arange(len(embeds))[None]
        last = positions == len(embeds) - 1
        output = backbone.causal(embeds[None], positions, select=last)
        since = len(fed) - next((n for n, token in enumerate(fed[::-1]) if token == FREE), len(fed))
        tag = tags.at_end(fed[since:])
        left = tags.steps(tag) if tag is not None and not left and fed[-1] != FREE else left
        if left:
            left -= 1
            latents.append(model.projector(output.hidden)[0])
            fed.append(FREE)
            embeds = torch.cat([embeds, latents[-1][None]])
            continue
        token = plan[step] if plan[step] != FREE else int(output.logits[0].argmax())
        fed.append(token)
        embeds = torch.cat([embeds, backbone.embed(torch.tensor([token]))])
    return fed, latents


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
@torch.no_grad()
def test_the_cached_loop_equals_full_recomputation(name: str) -> None:
    model = method(name)
    plan = script(model.tags, 2, "[3]", 3, "[1][2]", 4)
    (answer,) = generate(model, [plan], max_new_tokens=len(plan) - 6)
    expected, _ = uncached(model, "n0 = 0", plan)
    assert answer.actions is not None
    assert answer.actions.ids.tolist() == expected
    assert answer.num_latents == 6
    free = [token for token, given in zip(expected, plan, strict=True) if given == FREE and token != FREE]
    assert len(free) == 9
    assert len(set(free)) > 2  # a model that says one thing would prove little


@torch.no_grad()
def test_a_tag_of_three_leads_to_three_latents_and_nothing_is_sampled_between() -> None:
    model = method()
    (answer,) = generate(model, [script(model.tags, "a[3]b", CLOSE, "7")], max_new_tokens=8)
    assert answer.actions is not None
    kinds = answer.actions.kinds.tolist()
    assert kinds == [*[Kind.TOKEN] * 4, *[Kind.LATENT] * 3, *[Kind.TOKEN] * (len(kinds) - 7)]
    assert answer.decode_steps == len(kinds) - 1  # positions without a gap; the last token need not be fed


@torch.no_grad()
def test_a_batch_with_neighbours_in_every_mode_equals_its_rows_alone() -> None:
    model = method()
    backbone = model.backbone
    tags, eos = model.tags, backbone.layout.eos
    plans = [
        script(tags, 1, "[3]", 1, "[1][5]", 2, "[2]", 3, CLOSE, 2),  # to and fro, five times
        script(tags, 12),  # text alone
        script(tags, "[5][5][5]", 4),  # latents nearly alone
        [*script(tags, 2, CLOSE), *tags.encode("[3]4"), eos],  # a tag in the answer is text
        [*script(tags, 1, "[12]"), eos],  # ends right after its latents
        script(tags, 3, "[0][x]", 2, "[4]", 6),
        [eos],
        script(tags, 5, "[1]", 1, "[1]", 1, "[1]", 1, "[1]", 4),
        script(tags, 2, "[2", 3, "]", 2),
    ]
    # slots are given to others, also those that ended in a tag
    settings: dict[str, Any] = {"max_new_tokens": 24, "batch_size": 4}
    together = generate(model, plans, **settings)
    for number in range(len(plans)):
        (alone,) = generate(model, plans, **settings, only=number)
        assert together[number] == alone
        batched, single = together[number].actions, alone.actions
        assert batched is not None
        assert single is not None
        assert torch.equal(batched.ids, single.ids)
        torch.testing.assert_close(batched.log_probs, single.log_probs, rtol=0, atol=1e-10)
    assert [answer.num_latents for answer in together] == [11, 0, 15, 0, 5, 4, 0, 4, 0]
    assert together[3].text.startswith("[3]4")
    modes = torch.nn.utils.rnn.pad_sequence([a.actions.kinds for a in together[:4] if a.actions], batch_first=True)
    assert any({Kind.TOKEN, Kind.LATENT} <= set(step.tolist()) for step in modes.T)  # at one step both are in the batch


@torch.no_grad()
def test_the_cap_of_latents_ends_a_tag_and_closes_the_reasoning() -> None:
    model = method()
    (answer,) = generate(model, [script(model.tags, "[3]ab[5]cd")], max_latents=5, max_new_tokens=14)
    assert answer.num_latents == 5
    assert answer.closed
    assert answer.reasoning == "[3]ab[5]"
    assert answer.num_reasoning_tokens == 2
    plain = method(model={"layout": "plain_boxed"}, ask="", guide=False)
    (cut,) = generate(plain, [script(plain.tags, "ab[5]cd")], max_latents=2)
    assert (cut.num_latents, cut.stop_reason) == (2, "length")


@torch.no_grad()
def test_tags_do_not_count_as_reasoning_and_latents_do() -> None:
    model = method()
    (answer,) = generate(model, [[*script(model.tags, "abc[3] def", CLOSE, "77"), model.backbone.layout.eos]])
    assert (answer.num_reasoning_tokens, answer.num_latents, answer.num_answer_tokens) == (7, 3, 2)
    assert answer.decode_steps == 7 + 3 + 3 + 1 + 2  # the tag's own tokens are paid for: its length in the paper
    assert answer.reasoning == "abc[3] def"
    plain = method(model={"layout": "plain_boxed"}, ask="", guide=False)
    text = "ab[2]cd\n\\boxed{7}"
    (answer,) = generate(plain, [[*script(plain.tags, text), plain.backbone.layout.eos]])
    assert answer.text == text
    assert (answer.num_reasoning_tokens, answer.num_latents, answer.num_answer_tokens) == (5, 2, 9)


@torch.no_grad()
def test_controls_feed_zeros_or_nothing() -> None:
    model = method()
    plan = [script(model.tags, "a[3]", 4)]
    projected, zeros, none = (generate(model, plan, latents=name)[0] for name in ("projected", "zeros", "none"))
    assert [answer.num_latents for answer in (projected, zeros, none)] == [3, 3, 0]
    assert projected.actions is not None
    assert zeros.actions is not None
    assert not torch.allclose(projected.actions.log_probs[7:9], zeros.actions.log_probs[7:9])
    model.projector.requires_grad_(False)
    for parameter in model.projector.parameters():
        parameter.zero_()
    (silent,) = generate(model, plan)
    assert silent == zeros
    assert silent.actions is not None
    assert torch.equal(silent.actions.log_probs, zeros.actions.log_probs)


def test_a_prompt_is_never_expanded() -> None:
    model = method()
    (answer,) = generate(model, [script(model.tags, 6)], ["what is [3]"], max_new_tokens=6)
    assert answer.num_latents == 0
