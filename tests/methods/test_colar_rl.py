"""CoLaR's second stage: values worked by hand, and densities of drawn latents that scoring finds again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, pi
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import ModelConfig, RLConfig, RolloutConfig, tree
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.actions import Kind
from latbench.decoding.sampling import normal, row_keys
from latbench.method import Losses
from latbench.model.backbone import Backbone
from latbench.model.batches import Tensors
from latbench.training.rl.action_tensors import action_batch
from latbench.training.rl.advantages import group_advantages
from latbench.training.rl.groups import Group
from latbench.training.rl.rewards import shaped_reward
from latbench.training.rl.rollouts import RolloutSource
from latbench.training.rl.surrogate import policy_losses
from latbench.training.trainer import set_trainable
from methods.colar import LATENT_DRAW, Colar, ColarDecoding
from tests.conftest import CHAINS
from tests.methods.test_colar import built, thinker
from tests.training.rl.rollouts_by_hand import rollout
from tests.training.rl.toy_rl import Parity

PAPER = RLConfig(**tree.preset("colar", "llama1b-math-rl")["train"]["rl"])
RELEASED_CODE = replace(PAPER, average="constant", constant_length=32)
SEED, GROUP_SIZE = 5, 2


def drawing(latent_noise: float = 1.0, **settings: Any) -> RLConfig:
    """Settings of small rollouts."""
    small = RolloutConfig(max_new_tokens=6, max_latents=7, temperature=0.8, batch_size=3, latent_noise=latent_noise)
    return RLConfig(**{"prompts": 4, "group_size": GROUP_SIZE, "parts": "apart", "rollout": small, **settings})


def drawn(method: Colar, config: RLConfig) -> list[Group]:
    """Groups of one rollout; the first answer of each counts as the right one."""
    source = RolloutSource(method, CHAINS, Parity(), config, seed=SEED, parts=1)
    source.batches(0)
    for group in source.state.groups:
        for row, advantage in zip(group.rollouts, (1.0, -1.0), strict=True):
            row.advantage = row.first_advantage = advantage
    return source.state.groups


def by_hand(method: Colar, lengths: Sequence[int], advantages: Sequence[float], config: RLConfig) -> ActionBatch:
    """One group whose answers have so many latents and as many text actions, the close marker being the first of these;
    all old log-probabilities are 0."""
    rows = []
    for length, advantage in zip(lengths, advantages, strict=True):
        kinds = [Kind.LATENT] * length + [Kind.CLOSE] + [Kind.TOKEN] * (length - 1)
        ids = [-1] * length + [method.backbone.layout.close[0]] + [7] * (length - 1)
        records, old = {"latent": torch.zeros(length, method.backbone.hidden_size)}, torch.zeros(2 * length)
        rows.append(rollout([5, 6], ids, kinds=kinds, records=records, advantage=advantage, old=old))
    return action_batch(method, [Group(number=0, example=0, rollouts=rows)], config)


def losses_at(log_ratios: Tensor, batch: ActionBatch, config: RLConfig) -> Losses:
    return policy_losses(ActionLogProbs(log_ratios, torch.zeros(len(log_ratios))), batch, config)


# rewards, advantages and averages (T9, T10, T11)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 0], [2.47487] + [-0.35355] * 7),
        ([0.5, 0.25, 0, 0], [1.30558, 0.26112, -0.78335, -0.78335]),
    ],
)
def test_the_preset_has_the_papers_advantages(rewards: list[float], expected: list[float]) -> None:
    assert PAPER.deviation is not None
    found = group_advantages(rewards, [True] * len(rewards), deviation=PAPER.deviation, epsilon=PAPER.advantage_epsilon)
    assert found.tolist() == pytest.approx(expected, abs=5.01e-6)


def test_a_reward_may_be_divided_by_the_number_of_latents() -> None:
    config = replace(PAPER, reward="per_latent")
    answers = [(1.0, 2), (1.0, 4), (0.0, 1), (1.0, 5)]
    assert [shaped_reward(reward, num, config) for reward, num in answers] == pytest.approx([0.5, 0.25, 0, 0.2])


@pytest.mark.parametrize(("config", "expected"), [(PAPER, 0.175), (RELEASED_CODE, -0.003125)])
def test_the_worked_clipped_losses_are_met_by_latents_and_by_text(
    llama: Backbone, config: RLConfig, expected: float
) -> None:
    batch = by_hand(built(llama), (3, 2), (1.0, -1.0), config)
    ratios = torch.tensor([1, 1.5, 0.5] * 2 + [1, 1.5] * 2, dtype=torch.float64)
    losses = losses_at(ratios.log(), batch, config)
    terms = {name: float(term.total) / term.num_items for name, term in losses.items() if term.weight}
    assert terms == pytest.approx({"policy_latents": expected, "policy_text": expected}, abs=1e-12)
    assert losses.objective().item() == pytest.approx(2 * expected, abs=1e-12)


@pytest.mark.parametrize(("config", "short", "long"), [(PAPER, -0.5, -0.125), (RELEASED_CODE, -0.015625, -0.015625)])
def test_only_an_average_over_each_answer_favours_short_chains(
    llama: Backbone, config: RLConfig, short: float, long: float
) -> None:
    batch = by_hand(built(llama), (1, 4), (1.0, 1.0), config)
    log_ratios = torch.zeros(2 + 8, dtype=torch.float64, requires_grad=True)
    losses_at(log_ratios, batch, config).objective().backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == pytest.approx([short] * 2 + [long] * 8, abs=1e-12)


# densities of latents (T12, T13)


@pytest.mark.parametrize(("density", "dimensions", "ratio"), [("mean", 1, 1.02020), ("sum", 4, 1.08329)])
def test_the_ratio_of_a_latent_is_a_geometric_mean_unless_a_product_is_asked_for(
    density: str, dimensions: int, ratio: float
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 4, "num_layers": 1, "num_heads": 1, "mlp_size": 8}
    backbone = Backbone.load(ModelConfig(**sizes, dtype="float64", device="cpu"))
    method = built(backbone, latent_density=density, embedding_scale=0.5)
    head = method.head
    assert head.log_std is not None
    for parameter in (*head.mean.parameters(), *head.log_std.parameters()):
        torch.nn.init.zeros_(parameter)  # a unit Gaussian around 0
    batch = by_hand(method, (1,), (1.0,), PAPER)
    batch.records = Tensors({"latent": 0.5 * torch.tensor([[0.5, -0.5, 1, 0]]).double()})
    before = method.action_log_probs(batch).values[0].item()
    torch.nn.init.constant_(head.mean.bias, 0.1)
    after = method.action_log_probs(batch).values[0].item()
    assert (before, after) == pytest.approx((-1.10644 * dimensions, -1.08644 * dimensions), abs=5.01e-6 * dimensions)
    assert exp(after - before) == pytest.approx(ratio, abs=5.01e-6)


@pytest.mark.parametrize(
    ("name", "layout", "settings", "latent_noise"),
    [
        ("llama", "default", {}, 1.0),
        ("llama", "default", {"min_deviation": 1.0}, 0.5),
        ("gpt2", "plain_hash_answer", {"latent_density": "sum"}, 0.5),  # a close marker of several ids
        ("qwen2", "default", {"min_deviation": 1.0, "latent_loss": "nll"}, 1.0),
    ],
)
def test_recomputed_log_probabilities_are_those_of_the_decoding_loop(
    name: str, layout: str, settings: dict[str, Any], latent_noise: float
) -> None:
    method, config = built(thinker(name, layout=layout).backbone, **settings), drawing(latent_noise)
    groups = drawn(method, config)
    assert len({row.num_latents for group in groups for row in group.rollouts}) > 1
    batch = action_batch(method, groups, config)
    found = method.action_log_probs(batch)
    assert {Kind.LATENT, Kind.CLOSE, Kind.TOKEN} == set(batch.actions.kinds.tolist())
    torch.testing.assert_close(found.values, batch.actions.said, rtol=1e-9, atol=1e-9)
    regrouped = action_batch(method, [groups[2], groups[0]], config)
    torch.testing.assert_close(method.action_log_probs(regrouped).values, regrouped.actions.said, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latent_noise", [1.0, 0.5])
@torch.no_grad()
def test_a_floor_under_the_deviation_holds_in_drawing_and_in_scoring(llama: Backbone, latent_noise: float) -> None:
    """Half of the dimensions have lost their spread, the others keep a deviation of e."""
    method, config, half = built(llama, min_deviation=0.2), drawing(latent_noise), llama.hidden_size // 2
    head = method.head
    assert head.log_std is not None
    head.log_std.weight.zero_()
    head.log_std.bias[:half], head.log_std.bias[half:] = -20, 1
    std = latent_noise * torch.tensor([0.2] * half + [exp(1)] * half, dtype=torch.float64)
    groups, densities = drawn(method, config), []
    for group in groups:
        for number, row in enumerate(group.rollouts):
            latents = row.records["latent"]
            key = row_keys(SEED, [CHAINS[group.example].id], [group.number * GROUP_SIZE + number])
            eps = normal(key.expand(len(latents)), torch.arange(len(latents)), LATENT_DRAW, 2 * half).double()
            embeds = torch.cat([llama.embed(torch.tensor(row.prompt)), latents])
            hidden = llama.model(inputs_embeds=embeds[None], output_hidden_states=True).hidden_states[-1][0]
            mean = head.center(hidden[len(row.prompt) - 1 : -1])
            torch.testing.assert_close(latents, (mean + std * eps) * head.scale, rtol=1e-9, atol=1e-9)
            densities.append((-(eps**2) / 2 - std.log() - log(2 * pi) / 2).mean(-1))
    batch = action_batch(method, groups, config)
    found, latent = method.action_log_probs(batch), batch.actions.kinds == Kind.LATENT
    expected = torch.cat(densities)
    torch.testing.assert_close(batch.actions.said[latent], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.values[latent], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.figures["deviation"], std.mean().expand_as(expected))
    torch.testing.assert_close(found.entropy[latent], (std.log() + log(2 * pi) / 2 + 0.5).mean().expand_as(expected))


# what is learnt from


@pytest.mark.parametrize(
    ("learn_from", "latent_noise", "settings"),
    [("text", 0.0, {}), ("text", 1.0, {"latent_loss": "mse"}), ("latents", 1.0, {}), ("all", 1.0, {})],
)
def test_the_head_learns_from_latents_and_no_table_is_moved(
    learn_from: str, latent_noise: float, settings: dict[str, Any]
) -> None:
    method, config = built(thinker("llama").backbone, **settings), drawing(latent_noise, learn_from=learn_from)
    set_trainable(method, method.rl_stage())
    batch = action_batch(method, drawn(method, config), config)
    found = method.action_log_probs(batch)
    latent = batch.actions.kinds == Kind.LATENT
    assert (bool(latent.any()), bool((~latent).any())) == (learn_from != "text", learn_from != "latents")
    policy_losses(found, batch, config).objective().backward()
    table = method.backbone.model.get_input_embeddings().weight  # tied: the LM head too
    head = {id(parameter) for parameter in method.head.parameters()}
    for parameter in method.parameters():
        learns = parameter is not table and (id(parameter) not in head or learn_from != "text")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns


@pytest.mark.parametrize("learn_from", ["all", "latents"])
@pytest.mark.parametrize(("settings", "latent_noise", "sentence"), [
    ({"latent_loss": "mse"}, 1.0,
     "train.rl learns from drawn latents, but with method.latent_loss=mse the head is deterministic; "
     "use soft_mse or nll, or train.rl.learn_from=text"),
    ({}, 0.0,
     "train.rl.rollout.latent_noise is 0, so latents are not drawn and have no density to learn from; "
     "raise it, or set train.rl.learn_from=text"),
])  # fmt: skip
def test_latents_that_are_not_drawn_cannot_be_learnt_from(
    llama: Backbone, learn_from: str, settings: dict[str, Any], latent_noise: float, sentence: str
) -> None:
    method, config = built(llama, **settings), drawing(latent_noise, learn_from=learn_from)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        method.check_rl(config)
    method.check_rl(replace(config, learn_from="text"))
    built(llama, latent_loss="nll").check_rl(drawing(learn_from=learn_from))


# speeds of rollouts


def test_a_rollout_asks_at_one_speed_unless_speeds_are_drawn(llama: Backbone) -> None:
    (key,) = row_keys(0, ["group 0"], [0])
    for speed, decoding in ((2, {}), (4, {"thinking_speed": 4})):
        config = RolloutConfig(method=decoding).sampled(ColarDecoding)
        prompt = built(llama, test_speed=2).rollout_prompt(CHAINS[0], config, key)
        assert prompt == llama.prompt(f"{CHAINS[0].question}(Thinking speed: {speed})")


def test_drawn_speeds_are_uniform_over_those_of_training_and_repeat_for_a_key(llama: Backbone) -> None:
    method, config = built(llama, draw_speed=True, speeds=(1, 3, 7)), RolloutConfig().sampled(ColarDecoding)
    keys = row_keys(0, [f"group {number}" for number in range(900)], [0] * 900)
    asked = [tuple(method.rollout_prompt(CHAINS[0], config, key)) for key in keys]
    expected = [tuple(llama.prompt(f"{CHAINS[0].question}(Thinking speed: {speed})")) for speed in (1, 3, 7)]
    counts = [asked.count(prompt) for prompt in expected]
    assert sum(counts) == 900
    assert counts == pytest.approx([300] * 3, abs=4 * (900 * 2 / 9) ** 0.5)
    assert asked[:50] == [tuple(method.rollout_prompt(CHAINS[0], config, key)) for key in keys[:50]]


def test_all_answers_of_a_group_are_asked_at_its_speed(llama: Backbone) -> None:
    groups = drawn(built(llama, draw_speed=True, speeds=(1, 3, 7)), drawing(prompts=8))
    speeds = []
    for group in groups:
        (prompt,) = {row.prompt for row in group.rollouts}
        speeds.append(llama.layout.decode(list(prompt)).rpartition("speed: ")[2][0])
    assert set(speeds) == {"1", "3", "7"}
