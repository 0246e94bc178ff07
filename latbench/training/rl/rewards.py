"""What an answer is worth: pure functions of the task's verdict and of what the answer cost."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from latbench.config import RLConfig
from latbench.decoding.loop import Generation
from latbench.task import Example, Task


def rewards_of(
    task: Task[Any], answers: Sequence[tuple[Generation, Example]], config: RLConfig
) -> tuple[list[float], list[float]]:
    """Rewards of answers, raw (the task's) and shaped (`train.rl.reward`), in order.

    Raises: ValueError: a reward is not finite.
    """
    raw = task.rewards([(generation.text, example) for generation, example in answers])
    shaped = [
        shaped_reward(reward, found.num_latents, config, found.num_reasoning_tokens or 0, found.decode_steps)
        for reward, (found, _) in zip(raw, answers, strict=True)
    ]
    for reward, (_, example) in zip(shaped, answers, strict=True):
        if not isfinite(reward):
            raise ValueError(
                f"the reward of an answer to example {example.id!r} is {reward}; "
                f"task {task.name!r} must reward with finite numbers"
            )
    return raw, shaped


def shaped_reward(
    reward: float, num_latents: int, config: RLConfig, num_reasoning_tokens: int = 0, num_steps: int = 0
) -> float:
    """A reward with what its chain, or the whole answer of `num_steps` latents and tokens, cost.

    `per_latent` is `punish_latent_length` of CoLaR's code; an answer without latent steps keeps its reward.
    """
    if config.reward == "latent_cost":
        return reward - config.latent_cost * num_latents
    if config.reward == "per_latent":
        return reward / max(num_latents, 1)
    if config.reward == "chain_cost":
        return reward * max(1 - config.chain_cost * (num_latents + num_reasoning_tokens), 0)
    if config.reward == "overlong":
        beyond = (num_steps - config.overlong_free) / (config.overlong_most - config.overlong_free)
        return reward - min(max(beyond, 0), 1)
    return reward
