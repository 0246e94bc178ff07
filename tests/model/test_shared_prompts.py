"""Prompts that several rows begin with are computed once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latbench.model.backbone import Backbone
from latbench.model.batches import SharedPrompts, pad

PROMPTS = ([5, 6, 7, 8, 9, 10, 11], [9], [5, 6, 7, 8, 9, 10, 12])  # the second has no token but its last
ROWS = [0, 1, 0, 2, 0]
ANSWERS: tuple[list[int], ...] = ([4, 5], [6, 7, 8, 9, 10, 11, 12, 13], [4, 6, 9, 9, 9], [], [7])


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To rounding; some models compute norms in float32 whatever their weights are."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


def outputs(backbone: Backbone, *, shared: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Hidden states and logits of all answers and of what ends each, and the gradients of all parameters."""
    prompts = [PROMPTS[row] for row in ROWS]
    tokens = pad([[*prompt, *answer] for prompt, answer in zip(prompts, ANSWERS, strict=True)])
    begin = torch.tensor([len(prompt) - 1 for prompt in prompts])[:, None]
    select = tokens.mask & (tokens.positions >= begin)
    backbone.zero_grad()
    output = backbone.causal(
        backbone.embed(tokens.ids), tokens.positions, select, prompts=SharedPrompts.of(prompts) if shared else None
    )
    (output.logits.square().mean() + output.hidden.square().mean()).backward()
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
    return output.hidden.detach(), output.logits.detach(), [gradient.clone() for gradient in gradients]


def test_outputs_and_gradients_are_those_of_whole_rows(backbone: Backbone) -> None:
    plain, shared = outputs(backbone, shared=False), outputs(backbone, shared=True)
    assert len(plain[0]) == sum(len(answer) + 1 for answer in ANSWERS)
    assert len(plain[2]) == len(shared[2]) > 0
    for ours, theirs in zip((*plain[:2], *plain[2]), (*shared[:2], *shared[2]), strict=True):
        assert_same(ours, theirs)


def test_each_prompt_goes_through_the_model_once(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    forward = Backbone.forward

    def noted(self: Backbone, embeds: Tensor, *given: object, **named: object) -> object:
        seen.append(tuple(embeds.shape[:2]))
        return forward(self, embeds, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "forward", noted)
    outputs(llama, shared=True)
    assert seen == [(3, 6), (5, 9)]  # prompts but for their last token; then that token and the longest answer


def test_with_gradient_checkpointing_rows_are_computed_whole(llama: Backbone) -> None:
    expected = outputs(llama, shared=True)
    llama.model.gradient_checkpointing_enable()
    llama.train()
    for ours, theirs in zip(outputs(llama, shared=True)[2], expected[2], strict=True):
        assert_same(ours, theirs)
