"""Rewards, advantages within a group, the first action's winner: values worked by hand."""

from __future__ import annotations

import pytest
import torch

from latbench.config import RLConfig
from latbench.training.rl.advantages import first_action_winner, group_advantages
from latbench.training.rl.groups import Group
from latbench.training.rl.rewards import shaped_reward
from tests.training.rl.rollouts_by_hand import rollout

REWARDS = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
ALL = [True] * 8
LAST_TWO_CUT = [True] * 6 + [False] * 2


def near(found: torch.Tensor, *expected: float) -> None:
    assert found.tolist() == pytest.approx(list(expected), abs=1e-5)


def test_two_of_eight_right() -> None:
    near(group_advantages(REWARDS, ALL), *[1.62018] * 2, *[-0.54006] * 6)


def test_the_deviation_is_over_one_less_than_the_group_over_the_group_or_left_out() -> None:
    near(
        group_advantages([1.0, 0.0, 0.0, 1.0], [True] * 4, deviation="unbiased"),
        0.866024,
        -0.866024,
        -0.866024,
        0.866024,
    )
    near(
        group_advantages([1.0, 0.0, 0.0, 1.0], [True] * 4, deviation="biased"), 0.999998, -0.999998, -0.999998, 0.999998
    )
    near(group_advantages([1.0, 0.0, 0.0, 1.0], [True] * 4, deviation="none"), 0.5, -0.5, -0.5, 0.5)


def test_a_larger_constant_takes_from_the_advantages() -> None:
    near(group_advantages([1.0, 0.0], [True] * 2, epsilon=0.5), 0.5 / (0.5**0.5 + 0.5), -0.5 / (0.5**0.5 + 0.5))


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_give_no_advantage(reward: float) -> None:
    for deviation in ("unbiased", "biased", "none"):
        assert not group_advantages([reward] * 8, ALL, deviation=deviation).any()


def test_invalid_answers_are_kept_out_of_the_statistics_or_only_out_of_the_loss() -> None:
    near(group_advantages(REWARDS, LAST_TWO_CUT, invalid="exclude"), *[1.29099] * 2, *[-0.64550] * 4, 0, 0)
    near(group_advantages(REWARDS, LAST_TWO_CUT, invalid="include"), *[1.62018] * 2, *[-0.54006] * 4, 0, 0)
    near(group_advantages(REWARDS, LAST_TWO_CUT, invalid="keep"), *[1.62018] * 2, *[-0.54006] * 6)


def test_none_or_one_valid_answer() -> None:
    assert not group_advantages(REWARDS, [False] * 8, invalid="exclude").any()
    for reward in (1.0, 0.0):
        found = group_advantages([reward, 1.0, 0.0], [True, False, False], invalid="exclude")
        assert found.tolist() == [reward, 0.0, 0.0]


def test_the_winner_of_the_first_action_has_the_highest_mean_and_not_the_highest_sum() -> None:
    log_probs = [(-1.2, -0.4, -0.5), (-0.9, -0.6), (-0.1,)]
    means = [sum(row) / len(row) for row in log_probs]
    assert means[:2] == pytest.approx([-0.70, -0.75])
    advantages = torch.tensor([1.0, 1.0, -2.0])
    assert first_action_winner(advantages, [True] * 3, means) == 0
    assert first_action_winner(advantages, [False, True, True], means) == 1
    assert first_action_winner(-advantages.abs(), [True] * 3, means) is None


def test_only_the_winners_first_action_keeps_its_advantage() -> None:
    from latbench.training.rl.rollouts import RolloutSource

    rows = [
        rollout([5], [6, 7, 8], advantage=1.0),
        rollout([5], [6, 7], advantage=1.0),
        rollout([5], [6], advantage=-2.0),
    ]
    for row, old in zip(rows, ([-1.2, -0.4, -0.5], [-0.9, -0.6], [-0.1]), strict=True):
        row.old = torch.tensor(old)
    RolloutSource._select_first_action(None, Group(number=0, example=0, rollouts=rows))  # type: ignore[arg-type]
    assert [row.advantages().tolist() for row in rows] == [[1, 1, 1], [0, 1], [0]]
    wrong = [rollout([5], [6, 7], advantage=-1.0), rollout([5], [6], advantage=-1.0)]
    RolloutSource._select_first_action(None, Group(number=0, example=0, rollouts=wrong))  # type: ignore[arg-type]
    assert [row.advantages().tolist() for row in wrong] == [[-1, -1], [-1]]


@pytest.mark.parametrize(("rewards", "mixed"), [([1, 1, 1], False), ([0, 0, 0], False), ([1, 0, 0], True)])
def test_groups_of_equal_rewards_are_not_mixed(rewards: list[float], mixed: bool) -> None:
    rows = [rollout([5], [6], reward=reward) for reward in rewards]
    assert Group(number=0, example=0, rollouts=rows).is_mixed == mixed


def test_latent_steps_may_cost() -> None:
    assert shaped_reward(1.0, 4, RLConfig()) == 1.0
    costly = RLConfig(reward="chain_cost", chain_cost=0.05)
    assert [shaped_reward(right, 4, costly, 6) for right in (1.0, 0.0)] == pytest.approx([0.5, 0.0])
    assert shaped_reward(1.0, 4, costly, 20) == 0.0
    assert shaped_reward(1.0, 4, RLConfig(reward="latent_cost", latent_cost=0.05)) == pytest.approx(0.8)
    assert shaped_reward(1.0, 4, RLConfig(reward="per_latent")) == 0.25
    assert shaped_reward(1.0, 0, RLConfig(reward="per_latent")) == 1.0


def test_an_answer_costs_by_its_length_beyond_what_is_free() -> None:
    config = RLConfig(reward="overlong")
    found = [shaped_reward(1.0, 3, config, 5, length) for length in (0, 128, 160, 192, 256, 1000)]
    assert found == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert shaped_reward(0.0, 3, config, 5, 192) == -0.5
    with pytest.raises(ValueError, match=r"overlong_free must be below train.rl.overlong_most = 64, got 128"):
        RLConfig(overlong_most=64)
