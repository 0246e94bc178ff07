"""Advantages of a group of answers to one question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards: Sequence[float],
    valid: Sequence[bool],
    *,
    deviation: Literal["unbiased", "biased", "none"] = "unbiased",
    epsilon: float = 1e-6,
    invalid: Literal["keep", "include", "exclude"] = "keep",
) -> Tensor:
    """Centre the rewards of a group and divide them by their spread (GRPO, arXiv:2402.03300, section 4.1.2).

    With `exclude`, as in the code of Latent-GRPO: without a valid answer all advantages are 0, and a single valid one
    has its reward as advantage, since there is nothing to compare it to.

    Args:
        rewards: one for each answer, at least two.
        valid: whether the answer ended within the caps.
        deviation: over G - 1, over G, or no division.
        epsilon: added to it.
        invalid: `keep` treats invalid answers like others; `include` counts them in the statistics and `exclude` does
            not, and either sets their advantage to 0.
    Returns: (group,) float64; zeros where all rewards are equal.
    """
    assert len(rewards) == len(valid) >= 2, "a group holds two answers at least"
    scores, is_valid = torch.tensor(rewards, dtype=torch.float64), torch.tensor(valid)
    counted = scores[is_valid] if invalid == "exclude" else scores
    if len(counted) < 2:
        centred, spread = scores, torch.ones((), dtype=torch.float64)
    else:
        centred = scores - counted.mean()
        spread = counted.std(unbiased=deviation == "unbiased") + epsilon
    if len(counted) >= 2 and bool((counted == counted[0]).all()):
        advantages = torch.zeros_like(scores)  # exactly, whatever the mean has rounded
    else:
        advantages = centred if deviation == "none" else centred / spread
    return advantages if invalid == "keep" else torch.where(is_valid, advantages, 0.0)


def first_action_winner(advantages: Tensor, valid: Sequence[bool], mean_log_probs: Sequence[float]) -> int | None:
    """The only answer of a group whose first action is learnt from (Latent-GRPO, arXiv:2604.27998).

    Reinforcing the first latents of several correct answers at once would average them, since all come from the same
    state. The mean over an answer's actions, rather than the sum, does not favour short ones.

    Args:
        advantages: (group,).
        mean_log_probs: of the actions of each answer, before the update.
    Returns: the answer of the highest mean among the valid ones with a positive advantage; None: there is none, and
        nothing changes.
    """
    candidates = [row for row, good in enumerate((advantages > 0).tolist()) if good and valid[row]]
    return max(candidates, key=lambda row: mean_log_probs[row], default=None)
