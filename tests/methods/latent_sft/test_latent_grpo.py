"""Latent-GRPO: sampler, density, sign rule and stage against values worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import RLConfig, RolloutConfig
from latbench.decoding.actions import Kind
from latbench.decoding.loop import Prompt
from latbench.decoding.sampling import gumbel, row_keys
from latbench.model.backbone import Backbone
from latbench.training.rl.action_tensors import action_batch
from latbench.training.rl.groups import Group, Rollout
from latbench.training.rl.surrogate import clipped_surrogate, policy_losses
from latbench.training.trainer import set_trainable
from methods.latent_sft import LatentSFT
from methods.latent_sft.config import LatentSFTDecoding
from methods.latent_sft.policy import Policy, SignRule, candidates, gumbel_log_density, latent_log_probs, perturbed
from tests.methods.latent_sft.test_inference import stopping, thinker

BackboneOf = Callable[..., Backbone]
P = torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]).log()
NOISE = torch.tensor([[-1.0, 0.5, 2.0, 0.0, 0.0]])
ONE_SIDED = Policy(k=2, top_p=0.7)
TWO_SIDED = replace(ONE_SIDED, shift=0.0)
QUESTIONS = [f"n{i} = {7 * i % 11} + {i}; {'n1 = 2; ' * (i % 3)}n0 = ?" for i in range(6)]
ROLLOUTS = RolloutConfig(max_new_tokens=6, max_latents=7, temperature=0.6, batch_size=4)


def near(found: Tensor | float, *expected: float, abs_: float = 1e-5) -> None:
    values = torch.as_tensor(found).flatten().tolist()
    assert values == pytest.approx(list(expected), abs=abs_)


def drawn(log_probs: Tensor, noise: Tensor, policy: Policy) -> tuple[list[int], Tensor]:
    """Ids and scores of one row."""
    ids, kept = candidates(log_probs, policy)
    places, scores = perturbed(kept, noise[:, : kept.shape[1]], policy)
    return ids.gather(-1, places)[0].tolist(), scores[0]


# sampler


def test_two_of_two_candidates_are_mixed_by_their_noisy_scores() -> None:
    ids, kept = candidates(P, TWO_SIDED)
    assert ids.tolist() == [[0, 1]]
    near(kept.exp(), 0.5, 0.25)
    order, scores = drawn(P, NOISE, TWO_SIDED)
    assert order == [1, 0]
    near(scores, -0.88629, -1.69315)
    near(scores.softmax(-1), 0.69144, 0.30856)


def test_the_shift_moves_the_scores_and_not_the_weights() -> None:
    order, scores = drawn(P, NOISE, ONE_SIDED)
    assert order == [1, 0]
    near(scores, 0.61371, -0.19315)
    near(scores.softmax(-1), 0.69144, 0.30856)


def test_k_entries_are_candidates_even_where_the_nucleus_is_smaller() -> None:
    assert candidates(P, Policy(k=3, top_p=0.3))[0].tolist() == [[0, 1, 2]]


def test_noise_lies_within_its_clip_and_has_the_moments_of_it() -> None:
    keys = row_keys(0, ["x"] * 100, list(range(100)))
    noise = gumbel(keys, torch.zeros(100, dtype=torch.long), 2, 1000)
    margins = noise.clamp(-1.5, 3.0) + 1.5
    assert float(margins.min()) >= 0
    assert float(margins.max()) <= 4.5
    assert float((margins == 0).float().mean()) == pytest.approx(0.0113, abs=0.002)
    assert float((margins == 4.5).float().mean()) == pytest.approx(0.0486, abs=0.003)
    assert float((1 - (-margins).exp()).mean()) == pytest.approx(0.779, abs=0.005)


def test_without_noise_the_clean_top_k_is_mixed_by_its_probabilities() -> None:
    order, scores = drawn(P, NOISE, replace(ONE_SIDED, scale=0.0))
    assert order == [0, 1]
    near(scores.softmax(-1), 2 / 3, 1 / 3)


def test_a_margin_is_added_to_the_shift_before_the_scale() -> None:
    policy = replace(ONE_SIDED, shift=1.75, scale=0.5)
    _, scores = drawn(P, NOISE, policy)
    near(scores, log(0.25) + 0.5 * 2.25, log(0.5) + 0.5 * 0.75)


# density


def test_values_of_the_gumbel_density() -> None:
    margins = torch.tensor([0, 0.5, 1, 1.5, 4.5, -1])
    near(gumbel_log_density(margins), -1, -1.10653, -1.36788, -1.72313, -4.51111, -1.71828)


def test_the_density_of_the_worked_step_and_of_the_same_under_other_weights() -> None:
    scores = torch.tensor([[0.61371, -0.19315]])  # of tokens 1 and 0
    before = torch.tensor([[0.25, 0.5]]).log()
    near(scores - before, 2.0, 0.5)
    near(gumbel_log_density(scores - before), -2.13534, -1.10653)
    first = latent_log_probs(before, scores, torch.zeros(1), ONE_SIDED)
    near(first, -1.62093)
    after = latent_log_probs(before + torch.tensor([[0.1, -0.2]]), scores, torch.zeros(1), ONE_SIDED)
    near(after, -1.62308)
    near((after - first).exp(), 0.99786)


def slope(margin: float, advantage: float, policy: Policy, k: int = 1) -> tuple[float, float]:
    """Value, and gradient with respect to the log-probability of one of k components of that margin."""
    log_probs = torch.full((1, k), -2.0, dtype=torch.float64, requires_grad=True)
    value = latent_log_probs(log_probs, log_probs.detach() + margin, torch.tensor([advantage]), policy)
    value.sum().backward()
    assert log_probs.grad is not None
    return float(value.detach()), float(log_probs.grad[0, 0])


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, 4.5])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_slope_is_that_of_the_density_divided_among_the_components(margin: float, advantage: float) -> None:
    rules: tuple[SignRule, ...] = ("correct", "bounded", "off")
    for rule in rules:
        assert slope(margin, advantage, replace(ONE_SIDED, sign_rule=rule), k=4)[1] == pytest.approx(
            (1 - exp(-margin)) / 4, abs=1e-12
        )


@pytest.mark.parametrize(
    ("margin", "off", "bounded", "correct"),
    [(-0.5, -0.6487, -0.3935, 0.3935), (-1.0, -1.7183, -0.6321, 0.6321), (-3.0, -19.0855, -0.9502, 0.9502)],
)
def test_the_sign_rule_for_a_negative_advantage_and_margin(
    margin: float, off: float, bounded: float, correct: float
) -> None:
    rules: tuple[tuple[SignRule, float], ...] = (("off", off), ("bounded", bounded), ("correct", correct))
    for rule, expected in rules:
        value, found = slope(margin, -1.0, replace(ONE_SIDED, sign_rule=rule))
        assert found == pytest.approx(expected, abs=1e-4)
        assert value == pytest.approx(-margin - exp(-margin), abs=1e-9)
        assert slope(margin, 1.0, replace(ONE_SIDED, sign_rule=rule))[1] == pytest.approx(off, abs=1e-4)
    near(slope(-0.5, -1.0, ONE_SIDED)[0], -1.14872)


@pytest.mark.parametrize(("rule", "falls"), [("correct", True), ("bounded", False), ("off", False)])
def test_a_step_with_a_negative_advantage_lowers_a_component_beyond_its_score(rule: Any, falls: bool) -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    before = logits.log_softmax(-1)
    policy = replace(ONE_SIDED, k=1, sign_rule=rule)
    scores, advantage = before.detach()[:, :1] - 0.5, torch.tensor([-1.0])
    found = latent_log_probs(before[:, :1], scores, advantage, policy)
    loss = clipped_surrogate(found, found.detach(), advantage, RLConfig()).loss.sum()
    loss.backward()
    assert logits.grad is not None
    after = (logits - 0.1 * logits.grad).log_softmax(-1)
    assert bool(after[0, 0] < before[0, 0]) == falls


def test_soft_grpo_renormalises_clamps_and_leaves_out_small_components() -> None:
    policy = Policy(k=3, shift=0.0, renormalised=True)
    weights = torch.tensor([[0.6, 0.35, 0.02]])  # of a mass of 0.97 under the whole vocabulary
    own = (weights / weights.sum() + 1e-6).log()
    assert float(own[0, 2]) < -3
    margins = torch.tensor([[-2.0, 5.0, 1.0]])
    found = latent_log_probs(weights.log(), own + margins, torch.zeros(1), policy)
    near(found, float(gumbel_log_density(torch.tensor([-1.5, 3.0])).mean()))
    ids, kept = candidates(P, policy)
    assert ids.tolist() == [[0, 1, 2]]
    near(kept.exp(), 0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9)


# in rollouts


@torch.no_grad()
def rolled_out(method: LatentSFT, questions: list[str], config: RolloutConfig = ROLLOUTS) -> list[Rollout]:
    """Two answers to each question; the first is right."""
    decoding = config.sampled(method.decoding)
    prompts = [
        Prompt(id=question, text=question, sample=row, ids=tuple(method.prompt_ids(question)))
        for question in questions
        for row in range(2)
    ]
    answers = method.generate(prompts, decoding, seed=5, actions=True, rule=method.rollout_rule(decoding))
    rows = [Rollout.of(prompt.ids or (), answer, 0.0, 0.0) for prompt, answer in zip(prompts, answers, strict=True)]
    for number, row in enumerate(rows):
        row.advantage = row.first_advantage = 1.0 - 2 * (number % 2)
    return rows


def grouped(rows: list[Rollout]) -> list[Group]:
    return [Group(number=i, example=i, rollouts=rows[2 * i : 2 * i + 2]) for i in range(len(rows) // 2)]


def a_policy(backbone_of: BackboneOf, name: str = "llama", **settings: Any) -> LatentSFT:
    return thinker(stopping(backbone_of(name)), **settings)


def test_a_row_in_a_batch_draws_what_it_draws_alone(backbone_of: BackboneOf) -> None:
    method = a_policy(backbone_of)
    together = rolled_out(method, QUESTIONS)
    alone = [row for question in QUESTIONS for row in rolled_out(method, [question])]
    assert {Kind.LATENT, Kind.CLOSE, Kind.TOKEN} <= {int(kind) for row in together for kind in row.kinds}
    assert len({row.num_latents for row in together}) > 2
    for row, other in zip(together, alone, strict=True):
        assert torch.equal(row.kinds, other.kinds)
        assert torch.equal(row.ids, other.ids)
        torch.testing.assert_close(row.records, other.records, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(row.said, other.said, rtol=1e-9, atol=1e-9)


def test_the_close_marker_follows_a_clean_argmax_and_is_fed_as_a_token(backbone_of: BackboneOf) -> None:
    method = a_policy(backbone_of)
    close = method.backbone.layout.close
    for row in rolled_out(method, QUESTIONS):
        (places,) = (row.kinds == Kind.CLOSE).nonzero(as_tuple=True)
        if len(places):
            assert len(places) == 1
            assert int(row.ids[places[0]]) == close[0]
            assert (row.kinds[: int(places[0])] == Kind.LATENT).all()
        assert len(row.records["ids"]) == int((row.kinds == Kind.LATENT).sum()) == row.num_latents


@pytest.mark.parametrize("name", ["llama", "llama_untied", "gpt2"])
@pytest.mark.parametrize("density", ["latent_grpo", "soft_grpo"])
def test_recomputed_log_probabilities_are_those_of_the_decoding_loop(
    backbone_of: BackboneOf, name: str, density: Any
) -> None:
    method = a_policy(backbone_of, name, rl_density=density)
    config = RLConfig(rollout=ROLLOUTS, average="token")
    batch = action_batch(method, grouped(rolled_out(method, QUESTIONS)), config)
    found = method.action_log_probs(batch)
    torch.testing.assert_close(found.values, batch.actions.said.double(), rtol=1e-9, atol=1e-9)
    kinds = batch.actions.kinds
    logits = method.backbone.causal(  # of text by hand
        method.backbone.embed(batch.sequence.ids).masked_scatter(
            batch.is_latent[..., None],
            method.backbone.mix(batch.records["ids"], batch.records["scores"].softmax(-1)),
        ),
        batch.sequence.positions,
        select=batch.scored,
    ).logits
    text = (logits / 0.6).log_softmax(-1)[torch.arange(len(kinds)), batch.actions.ids.clamp(min=0)]
    chosen = kinds != Kind.LATENT
    torch.testing.assert_close(found.values[chosen], text[chosen], rtol=1e-9, atol=1e-9)


def test_equal_weights_give_ratios_of_one_and_only_the_decoder_learns(backbone_of: BackboneOf) -> None:
    method = a_policy(backbone_of)
    stage = method.rl_stage()
    set_trainable(method, stage)
    config = RLConfig(rollout=ROLLOUTS, average="token")
    groups = grouped(rolled_out(method, QUESTIONS))
    batch = action_batch(method, groups, config)
    batch.actions.old = method.action_log_probs(batch).values.detach()
    before = {name: parameter.clone() for name, parameter in method.named_parameters()}
    optimizer = torch.optim.AdamW([parameter for parameter in method.parameters() if parameter.requires_grad], lr=1e-3)
    losses = policy_losses(method.action_log_probs(batch), batch, config)
    ratios = (method.action_log_probs(batch).values - batch.actions.old).exp()
    assert torch.equal(ratios, torch.ones_like(ratios))
    losses.objective().backward()
    table = method.backbone.model.get_input_embeddings().weight
    assert table.grad is None
    assert method.backbone.model.get_output_embeddings().weight is table  # tied: the head too
    optimizer.step()
    after = dict(method.named_parameters())
    assert torch.equal(before["backbone.model.model.embed_tokens.weight"], table)
    moved = {name for name, parameter in after.items() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, _ in method.trainable_parameters(stage)}
    assert losses["rl/negative_margins"].total.item() == 0.0


def test_an_answer_whose_thought_the_cap_ends_is_invalid(backbone_of: BackboneOf) -> None:
    method = a_policy(backbone_of)
    decoding = ROLLOUTS.sampled(LatentSFT.decoding)
    rule = method.rollout_rule(decoding)
    answers = method.generate(QUESTIONS, decoding, actions=True, rule=rule)
    for answer in answers:
        assert answer.capped == (answer.num_latents == ROLLOUTS.max_latents)
        ended = [replace(answer, stop_reason=reason) for reason in ("eos", "length")]
        assert [Rollout.of((), each, 1.0, 1.0).valid for each in ended] == [not answer.capped, False]
    assert {answer.capped for answer in answers} == {True, False}


def test_hidden_states_cannot_be_reinforced(backbone_of: BackboneOf) -> None:
    method = thinker(backbone_of("llama"), latent_space="hidden", noise=0)
    with pytest.raises(
        ValueError, match=r"method.latent_space=hidden .* have no density; set method.latent_space=vocab"
    ):
        method.check_rl(RLConfig())
    with pytest.raises(ValueError, match=r"method.latent_space=hidden"):
        method.check_rl(RLConfig(learn_from="text"))  # whose latents would be drawn as mixtures all the same


# learning


def learnt(scale: float, updates: int = 200) -> list[float]:
    """Mean reward by update of one latent step over eight tokens: the mass on the first four has to be above 0.6."""
    policy = Policy(k=4, top_p=1.0, scale=scale)
    logits = torch.zeros(1, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    config, rewards = RLConfig(average="token"), []
    for update in range(updates):
        keys = row_keys(update, ["x"] * 8, list(range(8)))
        log_probs = logits.log_softmax(-1).expand(8, -1)
        ids, kept = candidates(log_probs.detach(), policy)
        places, scores = perturbed(kept, gumbel(keys, torch.zeros_like(keys), 2, kept.shape[1]), policy)
        chosen = ids.gather(-1, places)
        mass = (scores.softmax(-1) * (chosen < 4)).sum(-1)
        reward = (mass > 0.6).double()
        rewards.append(float(reward.mean()))
        if reward.std() == 0:
            continue
        advantages = ((reward - reward.mean()) / reward.std()).float()
        found = latent_log_probs(log_probs.gather(-1, chosen), scores, advantages, policy)
        optimizer.zero_grad()
        clipped_surrogate(found, found.detach(), advantages, config).loss.mean().backward()
        optimizer.step()
    return rewards


def test_a_rewarded_group_of_tokens_takes_over() -> None:
    rewards = learnt(scale=1.0)
    assert sum(rewards[:10]) / 10 < 0.7
    assert sum(rewards[-20:]) / 20 > 0.9


def test_without_noise_all_answers_are_equal_and_nothing_is_learnt() -> None:
    assert len(set(learnt(scale=0.0, updates=20))) == 1


def test_decoding_settings_of_rollouts_and_of_held_out_questions() -> None:
    sampled, greedy = ROLLOUTS.sampled(LatentSFT.decoding), ROLLOUTS.greedy(LatentSFT.decoding)
    assert (sampled.batch_size, sampled.max_new_tokens, sampled.max_latents, sampled.temperature) == (4, 6, 7, 0.6)
    assert sampled.own(LatentSFTDecoding).latent_noise == 1.0
    assert greedy.own(LatentSFTDecoding).latent_noise == greedy.temperature == 0.0
    assert ROLLOUTS.sampled(None).method is None
