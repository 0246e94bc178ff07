"""Latent-GRPO (Deng et al., arXiv:2604.27998): reinforcement learning of vocabulary superpositions, on Latent-SFT.

A latent step perturbs the log-probabilities of candidate tokens with clipped, one-sided Gumbel noise and mixes the K
entries of the highest scores by their softmax. What is kept of it are the K ids and their scores s, in float32: the
density of the step under other weights is that of the noise they would have needed, the margins d_k = s_k - lp(i_k):

    logp = 1/K sum_k g(d_k),    g(d) = -d - exp(-d)    (log-density of a standard Gumbel)

It ignores that the K were selected and that noise was clipped, and is no exact density of the mixture; a component with
d > 0 moves with the sign of the advantage, one with d < 0 against it. One-sided noise makes d >= 0 at first;
after some updates lp can pass s. The paper keeps the sign by a conditional straight-through estimator; the released one
bounds the slope and leaves its sign, and is the option `bounded`.

SofT-GRPO (arXiv:2511.06411) is the density `soft_grpo`: probabilities renormalised over the K likeliest, two-sided
noise, margins clamped to the clip, components below a log-probability of -3 left out, no sign rule.

Gumbel noise that is shifted as a whole changes neither which entries are mixed nor their weights, only the margins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.actions import Kind
from latbench.decoding.rule import Latent, LatentAction, LatentRule, Mixture, RowState, says_close
from latbench.decoding.sampling import Sampling, gumbel
from latbench.decoding.superposition import entropy, top_k_mixture
from latbench.model.backbone import Backbone
from latbench.training.rl.action_tensors import text_log_probs
from methods.latent_sft.config import LatentSFTConfig

POLICY_DRAW = 2  # of a step; 0 is the text token's, 1 the noise of stage 2 at inference
LEAST_LOG_PROB = -3.0  # SofT-GRPO: components below do not count
SignRule = Literal["correct", "bounded", "off"]
FIGURES = ("negative_margins", "margin", "largest_weight", "weight_entropy", "clean_support")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How latent steps are drawn and scored; see the keys `method.rl_*`.

    Args:
        k: entries of a superposition.
        top_p: mass of the candidates, which are k at least.
        temperature: tau, of the mixture's weights.
        low: lower clip of the noise.
        high: upper clip of the noise.
        shift: added to it.
        scale: factor on the sum.
        renormalised: SofT-GRPO's density.
    """

    k: int
    top_p: float = 0.95
    temperature: float = 1.0
    low: float = -1.5
    high: float = 3.0
    shift: float = 1.5
    scale: float = 1.0
    sign_rule: SignRule = "correct"
    renormalised: bool = False

    @classmethod
    def of(cls, settings: LatentSFTConfig, vocab_size: int, scale: float) -> Policy:
        """The policy of a method's settings.

        Args:
            scale: `latent_noise` of the decoding.
        """
        low, high = settings.rl_noise_clip or (float("-inf"), float("inf"))
        shifted = settings.rl_one_sided and settings.rl_density == "latent_grpo"
        return cls(
            k=min(settings.top_k or vocab_size, vocab_size),
            top_p=settings.rl_top_p,
            temperature=settings.rl_temperature,
            low=low,
            high=high,
            shift=settings.rl_margin - low if shifted else 0.0,
            scale=scale,
            sign_rule=settings.rl_sign_rule,
            renormalised=settings.rl_density == "soft_grpo",
        )


def candidates(log_probs: Tensor, policy: Policy) -> tuple[Tensor, Tensor]:
    """Entries that may be mixed: those before which the mass is below top_p, and k at least.

    Args:
        log_probs: (batch, vocab).
    Returns: (batch, entries) ids by falling probability and their log-probabilities, minus infinity beyond a row's own;
        with SofT-GRPO the k likeliest, renormalised over them.
    """
    if policy.renormalised:
        kept, ids = log_probs.topk(policy.k)
        return ids, (kept.softmax(-1) + 1e-6).log()
    ordered, ids = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    num = (before < policy.top_p).sum(-1).clamp(min=policy.k)
    widest = int(num.max())
    place = torch.arange(widest, device=log_probs.device)
    return ids[:, :widest], ordered[:, :widest].masked_fill(place >= num[:, None], float("-inf"))


def perturbed(log_probs: Tensor, noise: Tensor, policy: Policy) -> tuple[Tensor, Tensor]:
    """The k highest scores: log-probabilities plus clipped, shifted and then scaled noise.

    Args:
        log_probs: (batch, entries) of candidates.
        noise: of that shape, standard Gumbel.
    Returns: (batch, k) places among the candidates by falling score, and the scores.
    """
    scores, places = (log_probs + policy.scale * (noise.clamp(policy.low, policy.high) + policy.shift)).topk(policy.k)
    return places, scores


def gumbel_log_density(margins: Tensor) -> Tensor:
    """g(d) = -d - exp(-d), the log-density of a standard Gumbel at the noise a score implies."""
    return -margins - (-margins).exp()


def latent_log_probs(log_probs: Tensor, scores: Tensor, advantages: Tensor, policy: Policy) -> Tensor:
    """Log-density of latent steps by their stored scores, with gradients to the log-probabilities.

    Args:
        log_probs: (latent, k) of the stored ids now, over the whole vocabulary at temperature 1.
        scores: (latent, k).
        advantages: (latent,) of the steps, which the sign rule looks at.
    Returns: (latent,).
    """
    if policy.renormalised:
        own = (log_probs.softmax(-1) + 1e-6).log()
        counts = own > LEAST_LOG_PROB
        each = gumbel_log_density((scores - own).clamp(policy.low, policy.high))
        return (each * counts).sum(-1) / counts.sum(-1).clamp(min=1)
    margins = scores - log_probs
    each = gumbel_log_density(margins)
    if policy.sign_rule != "off":
        size = 1 - (-margins.detach().abs()).exp()
        slope = size if policy.sign_rule == "correct" else -size
        repaired = each.detach() + slope * (log_probs - log_probs.detach())
        each = torch.where((advantages[:, None] < 0) & (margins < 0), repaired, each)
    return each.mean(-1)


class PolicyRule(LatentRule):
    """Latent steps of rollouts, until the clean argmax is the close marker.

    Args:
        policy: with the scale of the noise.
        config: of the text.
    """

    def __init__(self, backbone: Backbone, policy: Policy, config: GenerateConfig) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.policy = policy

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule; the first id of the marker stops, the others are forced."""
        log_probs = _wide(logits).log_softmax(-1)
        ids, kept = candidates(log_probs, self.policy)
        noise = gumbel(rows.keys, rows.steps, POLICY_DRAW, kept.shape[-1]).to(kept.dtype)
        places, scores = perturbed(kept, noise, self.policy)
        chosen = ids.gather(-1, places)
        weights = (scores / self.policy.temperature).softmax(-1)
        no_advantage = scores.new_zeros(len(scores))  # the sign rule changes gradients alone
        density = latent_log_probs(log_probs.gather(-1, chosen), scores, no_advantage, self.policy)
        return Latent(
            self.backbone.mix(chosen, weights),
            says_close(self.backbone, logits),
            Mixture(chosen, weights),
            LatentAction({"ids": chosen, "scores": scores}, density),
        )


def policy_log_probs(backbone: Backbone, batch: ActionBatch, policy: Policy) -> ActionLogProbs:
    """`Method.action_log_probs`: latent steps by their stored scores, text by the LM head.

    The mixtures are made again from the scores and are constants, so that no gradient flows through a latent into what
    comes before it.
    """
    embeds = backbone.embed(batch.sequence.ids)
    has_latents = "scores" in batch.records and len(batch.records["scores"]) > 0
    if has_latents:
        stored = batch.records["scores"]
        with torch.no_grad():
            z = backbone.mix(batch.records["ids"], (stored / policy.temperature).softmax(-1))
        embeds = embeds.detach().masked_scatter(batch.is_latent[..., None], z.to(embeds.dtype))
    logits = backbone.causal(embeds, batch.sequence.positions, select=batch.scored, prompts=batch.prompts).logits
    values, spread = text_log_probs(logits, batch.actions.ids, batch.temperature)
    latent = batch.actions.kinds == Kind.LATENT
    if not latent.any():
        return ActionLogProbs(values, spread)
    own = _wide(logits[latent])
    ids, scores = batch.records["ids"], batch.records["scores"].to(own.dtype)
    log_probs = own.log_softmax(-1).gather(-1, ids)
    advantages = batch.actions.advantages[latent].to(own.dtype)
    place = latent.nonzero()[:, 0]
    return ActionLogProbs(
        values.index_put((place,), latent_log_probs(log_probs, scores, advantages, policy)),
        spread.index_put((place,), entropy(own.detach()).to(spread.dtype)),
        figures=_figures(own.detach(), log_probs.detach(), ids, scores, policy),
    )


def _figures(logits: Tensor, log_probs: Tensor, ids: Tensor, scores: Tensor, policy: Policy) -> dict[str, Tensor]:
    """Of each latent step: share of negative margins, mean margin, largest weight and entropy of the mixture, and
    whether it mixes the k likeliest entries (a collapse shows in the last three)."""
    margins = scores - log_probs
    weights = (scores / policy.temperature).softmax(-1)
    likeliest = top_k_mixture(logits, policy.k)[0].sort(-1).values
    return {
        "negative_margins": (margins < 0).to(margins.dtype).mean(-1),
        "margin": margins.mean(-1),
        "largest_weight": weights.amax(-1),
        "weight_entropy": -(weights * weights.clamp(min=1e-12).log()).sum(-1),
        "clean_support": (likeliest == ids.sort(-1).values).all(-1).to(margins.dtype),
    }


def _wide(logits: Tensor) -> Tensor:
    """float32 at least: margins near 0 lose their sign in bfloat16."""
    return logits if logits.element_size() > 4 else logits.float()
