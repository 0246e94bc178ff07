"""The clipped surrogate and its averages, worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import pytest
import torch

from latbench.config import RLConfig, RolloutConfig
from latbench.decoding.action_batch import ActionLogProbs
from latbench.decoding.actions import Kind
from latbench.model.backbone import Backbone
from latbench.training.rl.action_tensors import action_batch, text_log_probs
from latbench.training.rl.groups import Group
from latbench.training.rl.rollouts import quiet
from latbench.training.rl.surrogate import clipped_surrogate, divergence, policy_losses
from methods.colar import Colar, ColarConfig
from methods.cot import Cot, CotConfig
from tests.training.rl.rollouts_by_hand import rollout

BackboneOf = Callable[..., Backbone]
MAX_NEW = 10


def one(ratio: float, advantage: float, **settings: Any) -> tuple[float, float, bool]:
    """Loss, its gradient by the log-probability, and whether it is clipped."""
    value = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    found = clipped_surrogate(
        value, torch.zeros(1), torch.tensor([advantage], dtype=torch.float64), RLConfig(**settings)
    )
    found.loss.sum().backward()
    assert value.grad is not None
    return float(found.loss.detach()), float(value.grad), bool(found.clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "settings", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, {}, -2.0, -2.0, False),
        (1.1, 2.0, {}, -2.2, -2.2, False),
        (1.5, 2.0, {}, -2.4, 0.0, True),
        (0.5, 2.0, {}, -1.0, -1.0, False),
        (0.5, -2.0, {}, 1.6, 0.0, True),
        (1.5, -2.0, {}, 3.0, 3.0, False),
        (1.25, 2.0, {"clip_high": 0.28}, -2.5, -2.5, False),
        (5.0, -2.0, {}, 10.0, 10.0, False),
        (5.0, -2.0, {"dual_clip": 3.0}, 6.0, 0.0, True),
        (2.0, -2.0, {"dual_clip": 3.0}, 4.0, 4.0, False),
        (5.0, -2.0, {"ratio_cap": 4.0}, 8.0, 0.0, True),
        (1e40, 2.0, {}, -2.4, 0.0, True),
        (1.0, -2.0, {"negative_weight": 0.5}, 1.0, 1.0, False),
        (1.0, 2.0, {"negative_weight": 0.5}, -2.0, -2.0, False),
    ],
)
def test_loss_and_slope_of_one_action(
    ratio: float, advantage: float, settings: dict[str, Any], loss: float, slope: float, clipped: bool
) -> None:
    found = one(ratio, advantage, **settings)
    assert found[:2] == pytest.approx((loss, slope), abs=1e-9)
    assert found[2] == clipped


@pytest.mark.parametrize(("advantage", "settings", "loss"), [(2.0, {}, -2.4), (-2.0, {"dual_clip": 3.0}, 6.0)])
def test_a_clipped_action_has_no_slope_where_its_ratio_is_beyond_float32(
    advantage: float, settings: dict[str, Any], loss: float
) -> None:
    value = torch.tensor([100.0]).requires_grad_()
    found = clipped_surrogate(value, torch.zeros(1), torch.tensor([advantage]), RLConfig(**settings))
    found.loss.sum().backward()
    assert found.loss.tolist() == pytest.approx([loss])
    assert value.grad is not None
    assert value.grad.tolist() == [0.0]


def test_the_divergence_is_that_of_k3() -> None:
    assert divergence(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0
    assert divergence(torch.tensor([-1.0]), torch.tensor([-1.5])).item() == pytest.approx(exp(-0.5) + 0.5 - 1)


def text_method(backbone: Backbone) -> Cot:
    return Cot(backbone, CotConfig())


def groups() -> list[Group]:
    """Two answers of one and of three tokens, and two that nothing is learnt from."""
    rows = [rollout([5, 6], [7], advantage=1.0), rollout([5, 6], [7, 8, 9], advantage=-1.0)]
    flat = [rollout([5], [7, 8], advantage=0.0), rollout([5], [7, 8], advantage=0.0)]
    return [Group(number=0, example=0, rollouts=rows), Group(number=1, example=1, rollouts=flat)]


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ("sequence", (-1 + 1) / 4),  # of four answers
        ("token", (-1 + 3) / 8),  # of eight tokens
        ("constant", (-1 + 3) / MAX_NEW / 4),
    ],
)
def test_averages_at_ratios_of_one_count_answers_that_are_left_out(
    backbone_of: BackboneOf, average: Any, expected: float
) -> None:
    config = RLConfig(average=average, rollout=RolloutConfig(max_new_tokens=MAX_NEW))
    method = text_method(backbone_of("llama"))
    batch = action_batch(method, groups(), config)
    assert len(batch.sequence.ids) == 2
    losses = policy_losses(method.action_log_probs(batch), batch, config)
    assert losses.objective().item() == pytest.approx(expected, abs=1e-9)
    assert {name: term.num_items for name, term in losses.items()} == batch.num_items


def latent_group() -> Group:
    kinds = [Kind.LATENT, Kind.LATENT, Kind.CLOSE, Kind.FORCED, Kind.TOKEN]
    torch.manual_seed(0)
    rows = [
        rollout([5, 6], [-1, -1, 3, 4, 7], kinds=kinds, records={"latent": torch.randn(2, 32)}, advantage=1.0),
        rollout([5, 6], [-1, 3, 4, 7], kinds=kinds[1:], records={"latent": torch.randn(1, 32)}, advantage=-1.0),
    ]
    return Group(number=0, example=0, rollouts=rows)


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({}, {"policy": (1 - 1) / 2}),
        ({"parts": "apart"}, {"policy_latents": 0.0, "policy_text": 0.0}),
        ({"average": "token"}, {"policy": (-4 + 3) / 7}),
        ({"average": "token", "parts": "apart"}, {"policy_latents": (-2 + 1) / 3, "policy_text": 0.0}),
        ({"average": "token", "learn_from": "latents"}, {"policy": (-2 + 1) / 3}),
        ({"average": "token", "learn_from": "text"}, {"policy": 0.0}),
        (
            {"average": "constant", "constant_length": 32, "parts": "apart"},
            {"policy_latents": -1 / 64, "policy_text": 0},
        ),
    ],
)
def test_latents_and_text_are_averaged_together_or_apart(
    backbone_of: BackboneOf, settings: dict[str, Any], terms: dict[str, float]
) -> None:
    config, method = RLConfig(**settings), Colar(backbone_of("llama"), ColarConfig(min_deviation=0.2))
    batch = action_batch(method, [latent_group()], config)
    losses = policy_losses(method.action_log_probs(batch), batch, config)
    found = {name: term.total.item() / term.num_items for name, term in losses.items() if "/" not in name}
    assert found == pytest.approx(terms, abs=1e-9)
    assert {name: term.num_items for name, term in losses.items()} == batch.num_items
    assert losses["rl/clipped_latents"].num_items == (0 if settings.get("learn_from") == "text" else 3)
    assert losses["rl/clipped_text"].num_items == (0 if settings.get("learn_from") == "latents" else 4)


def test_an_action_is_scored_at_the_position_before_it(backbone_of: BackboneOf) -> None:
    method = text_method(backbone_of("llama"))
    (group, _) = groups()
    batch = action_batch(method, [group], RLConfig())
    found = method.action_log_probs(batch).values
    expected = []
    for row in group.rollouts:
        for end in range(len(row.ids)):
            ids = torch.tensor([[*row.prompt, *row.ids[:end].tolist()]])
            logits = method.backbone.model(ids).logits[0, -1]
            expected.append(logits.log_softmax(-1)[row.ids[end]])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_text_has_the_log_probability_and_entropy_of_its_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    value, entropy = text_log_probs(logits, torch.tensor([1]), 0.5)
    probabilities = (logits / 0.5).softmax(-1)[0]
    assert value.item() == pytest.approx(probabilities[1].log().item())
    assert entropy.item() == pytest.approx(-(probabilities * probabilities.log()).sum().item())


def test_a_ratio_is_compared_to_the_old_policy_where_there_is_one(backbone_of: BackboneOf) -> None:
    method, config = text_method(backbone_of("llama")), RLConfig()
    (group, _) = groups()
    now = ActionLogProbs(torch.zeros(4, dtype=torch.float64), torch.zeros(4))
    for row in group.rollouts:
        row.old = torch.full((len(row.ids),), -0.1, dtype=torch.float64)
    batch = action_batch(method, [group], config)
    assert policy_losses(now, batch, config)["policy"].total.item() == pytest.approx(-exp(0.1) + exp(0.1))
    assert policy_losses(now, batch, config)["rl/log_prob_difference_max"].total.item() == pytest.approx(0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_unchanged_weights_give_the_same_log_probabilities_in_spite_of_dropout(
    backbone_of: BackboneOf, checkpointing: bool
) -> None:
    method = text_method(backbone_of("gpt2", gradient_checkpointing=checkpointing))
    dropped = [module for module in method.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropped:
        module.p = 0.5
    assert dropped
    batch = action_batch(method, groups(), RLConfig())
    method.train()
    quiet(method)
    first, second = (method.action_log_probs(batch).values for _ in range(2))
    assert torch.equal(first, second)
    first.sum().backward()
    assert method.backbone.model.is_gradient_checkpointing == checkpointing
    block = method.backbone.model.base_model.h[0]
    assert block.training == checkpointing  # gradients are checkpointed by the block
    assert all(parameter.grad is not None for parameter in block.parameters())
