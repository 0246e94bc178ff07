"""The clipped surrogate of the policy gradient, action by action, and its loss terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latbench.config import RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.actions import Kind
from latbench.method import Losses, LossTerm

MAX_LOG_RATIO = 80.0  # exp of more is infinite in float32, and the gradient of a clipped infinite ratio not a number


@dataclass
class Surrogate:
    """Of each action: (action,) loss with gradients, and whether the clip took its gradient away."""

    loss: Tensor
    clipped: Tensor


def clipped_surrogate(log_probs: Tensor, old: Tensor, advantages: Tensor, config: RLConfig) -> Surrogate:
    """PPO's clipped objective (arXiv:1707.06347, equation 7), negated, with the variants in use.

    r = exp(log_probs - old); -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). With `ratio_cap` r is cut there in the
    first term (arXiv:2505.07291, section 3.4); with `dual_clip` c the loss of A < 0 is at most -c A (arXiv:1912.09729,
    equation 5).

    Args:
        log_probs: (action,) with gradients.
        old: of the policy that drew them.
        advantages: (action,).
    """
    ratio = (log_probs - old).clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)  # type: ignore[operator]
    cut = ratio if config.ratio_cap is None else ratio.clamp(max=config.ratio_cap)
    loss = -torch.minimum(cut * advantages, clipped * advantages)
    negative = advantages < 0
    if config.dual_clip is not None:
        loss = torch.where(negative, torch.minimum(loss, -config.dual_clip * advantages), loss)
    if config.negative_weight != 1:
        loss = torch.where(negative, config.negative_weight * loss, loss)
    low = (ratio < 1 - config.clip_low) & negative
    high = (ratio > 1 + config.clip_high) & (advantages > 0)  # type: ignore[operator]
    caps = [cap for cap in (config.dual_clip, config.ratio_cap) if cap is not None]
    capped = (ratio > min(caps)) & negative if caps else torch.zeros_like(low)
    return Surrogate(loss, low | high | capped)


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The k3 estimator of KL(policy || reference): exp(u) - u - 1 with u = reference - log_probs; (action,), >= 0."""
    difference = reference - log_probs
    return difference.exp() - difference - 1


def policy_losses(found: ActionLogProbs, batch: ActionBatch, config: RLConfig) -> Losses:
    """Loss terms and figures of a batch of rollouts.

    Args:
        found: what the method says of the batch's actions now.
    """
    actions, values = batch.actions, found.values
    old = values.detach() if actions.old is None else actions.old.to(values.dtype)
    advantages = actions.advantages.to(values.dtype)
    surrogate = clipped_surrogate(values, old, advantages, config)
    shares = {name: share.to(values.dtype) for name, share in actions.shares.items()}
    terms = {
        name: LossTerm((share * surrogate.loss).sum(), batch.num_items[name])
        for name, share in shares.items()
        if name != "kl"
    }
    if "kl" in shares:
        assert actions.reference is not None, "the rollouts were scored by the reference"
        apart = divergence(values, actions.reference.to(values.dtype))
        if config.kl_corrected:
            apart = apart * (values - old).exp()
        terms["kl"] = LossTerm((shares["kl"] * apart).sum(), batch.num_items["kl"], weight=config.kl)
    difference = (old.detach() - actions.said.to(values.dtype)).abs()
    losses = Losses(terms)
    highest = difference.max() if len(difference) else difference.sum()
    num = batch.num_items["rl/log_prob_difference_max"]
    losses["rl/log_prob_difference_max"] = LossTerm(highest, num, weight=0.0, largest=True)
    is_latent = actions.kinds == Kind.LATENT
    figures: dict[str, Tensor] = {"rl/log_prob_difference": difference}
    for part, chosen in (("latents", is_latent), ("text", ~is_latent)):
        figures[f"rl/clipped_{part}"] = surrogate.clipped[chosen].to(values.dtype)
        figures[f"rl/entropy_{part}"] = found.entropy.detach()[chosen]
    figures |= {f"rl/{name}": value.detach() for name, value in found.figures.items()}
    for name in batch.num_items.keys() - losses.keys():  # a figure of latent steps where there are none is empty
        losses[name] = LossTerm(figures.get(name, values.new_zeros(0)).sum(), batch.num_items[name], weight=0.0)
    return losses
