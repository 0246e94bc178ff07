"""Soft Thinking and its relatives: reasoning in mixtures of tokens, without training.

`soft`: Soft Thinking (Zhang et al., arXiv:2505.15778). A latent step feeds the mean embedding of the next token under
its filtered distribution (the concept token). Thinking ends when the likeliest token is the close marker, or when the
distribution was all but certain for N steps in a row (cold stop); the answer is plain text.
`gumbel`, `dirichlet`: stochastic soft thinking (Wu et al., arXiv:2508.03440). The mixture's weights are random; the
largest decides what a step stands for.
`moi`: Mixture of Inputs (Zhuang et al., arXiv:2505.14827). Every token, of the answer too, is sampled and emitted as
usual; only what is fed is a posterior mean of the sampled token and the distribution it came from.
`discrete`: the control. The same filters and cold stop with sampled tokens, written out; `top_k: 1` is greedy.

The layout's markers are those of the thinking; without one thinking could not end, which is an error, except for `moi`.
A chat model that boxes its answer can think until it opens the box (`model.layout=boxed_chain`). Of a marker of several
tokens the first ends the thinking, the others are forced (by `discrete` all are written). An end of sequence within
the thinking ends the row without an answer.

Differs from the released code (eric-ai-lab/Soft-Thinking): its counter of the cold stop runs on in the answer and may
break it off, here it is that of the thinking; answers have their own settings (`generate.*`), which the code parses but
does not use; latent steps and tokens have a budget each; Dirichlet noise is on what the filters keep, not on zeros; a
sampled token outside the candidates of `moi` loses no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from latbench.config import YOUNGER, Fraction, GenerateConfig, NonNegativeFloat, Positive, PositiveFloat
from latbench.decoding.rule import Latent, LatentRule, Mixture, Mode, RowState, Step, StepRule, close_marker
from latbench.decoding.sampling import Sampling, dirichlet, gumbel
from latbench.decoding.superposition import entropy, top_k_mixture
from latbench.method import REASON, Losses, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import Batch
from latbench.registry import register_method
from latbench.task import STRICT, Example

NOISE_DRAW = 1  # draw 0 of a step is the text token's


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SoftThinkingConfig(MethodConfig):
    """Settings of the thinking; the answer's tokens, and all of `moi`, are chosen as `generate.*` says."""

    variant: Literal["soft", "gumbel", "dirichlet", "moi", "discrete"] = "soft"
    """What a step feeds: the mean embedding of the filtered distribution, the same with Gumbel or Dirichlet noise on
    its weights, Mixture of Inputs (`moi`), or a sampled token, the control (`discrete`)."""
    temperature: PositiveFloat = 0.6
    """T, divides the logits before the filters; `moi` reads generate.temperature instead."""
    top_k: Annotated[int, Field(ge=0)] = 30
    """First filter: so many most probable tokens; 0: all. Not read by `moi`, like the filters below."""
    top_p: Annotated[Fraction, Field(gt=0)] = 0.95
    """Second filter: the most probable tokens that hold this share of the probability."""
    min_p: Fraction = 0.001
    """Third filter: tokens of at least this fraction of the largest probability; 0: all."""
    max_topk: Positive = 10
    """Last filter: entries of a mixture at most."""
    cold_stop_entropy: NonNegativeFloat = 0.01
    """tau of the cold stop, in nats of the unfiltered distribution at T; 0: no cold stop."""
    cold_stop_steps: Positive = 256
    """N of the cold stop: steps in a row below tau that end the thinking."""
    gumbel_temperature: PositiveFloat = 0.5
    """tau_g of `gumbel`: near 0 a mixture is one sampled token, at large values uniform over its entries."""
    concentration: PositiveFloat = 4.0
    """gamma of `dirichlet`, as in the paper; its code has 1."""
    beta: NonNegativeFloat = 1.0
    """beta of `moi`: weight of the sampled token; at large values it alone is fed."""
    num_candidates: Positive = 20
    """n of `moi`: most probable tokens that are mixed with the sampled one."""
    candidate_temperature: PositiveFloat = 1.0
    """Temperature of these candidates' probabilities in `moi`, whatever that of the sampling."""
    ask: str | None = Field(default=None, json_schema_extra=YOUNGER)
    """Request after the question of a model without think tokens, which `moi` takes; null: to reason and to box the
    answer, as `cot` asks; "": none."""

    def draws(self, generate: GenerateConfig) -> bool:
        """Noise and sampled thinking draw at any temperature of the answer."""
        sampled = self.variant == "discrete" and self.top_k != 1
        return super().draws(generate) or sampled or self.variant in ("gumbel", "dirichlet")


@register_method("soft_thinking", config=SoftThinkingConfig)
class SoftThinking(Method[SoftThinkingConfig]):
    """A rule alone, over any model that thinks between markers."""

    def stages(self) -> list[Stage]:
        """None; a run with a `start` has the model of that one."""
        return []

    def batch(self, examples: Sequence[Example], stage: Stage) -> Batch:
        """Never called: there is no stage."""
        raise AssertionError("no training, no batches")

    def loss(self, batch: Batch, stage: Stage) -> Losses:
        """Never called: there is no stage."""
        raise AssertionError("no training, no loss")

    def rule(self, config: GenerateConfig) -> StepRule:
        """The variant's.

        Raises: ValueError: the model has no close marker.
        """
        if self.config.variant == "moi":
            return MixtureOfInputsRule(self.backbone, self.config, config)
        if not self.backbone.layout.close:
            raise ValueError(
                f"method {self.name!r} thinks until the close marker, which {self.backbone.name} has not; take a model "
                "with <think> tokens, a run with start.method=cot, model.layout=boxed_chain for boxed answers, or "
                "method.variant=moi"
            )
        rule = DiscreteRule if self.config.variant == "discrete" else SoftRule
        return rule(self.backbone, self.config, config)

    def request(self, question: str) -> str:
        """To reason, as `cot` asks, unless `method.ask` says otherwise."""
        return REASON if self.config.ask is None else self.config.ask


class SoftRule(LatentRule):
    """Latent steps that feed mixtures: `soft`, `gumbel` and `dirichlet`.

    Args:
        settings: of the thinking.
        config: of the answer.
    """

    def __init__(self, backbone: Backbone, settings: SoftThinkingConfig, config: GenerateConfig) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.settings, self.filters = settings, filters(settings)
        self.close, self.eos = backbone.layout.close[0], torch.tensor(backbone.eos_ids, device=backbone.device)

    def concept(self, logits: Tensor, rows: RowState) -> Mixture:
        """w_t, over at most `max_topk` ids."""
        settings = self.settings
        noisy_first = settings.variant == "dirichlet"  # its noise decides which entries are the largest
        ids, weights = self.filters.distribution(logits, None if noisy_first else settings.max_topk)
        if noisy_first:
            noisy = dirichlet(settings.concentration * weights, rows.keys, rows.steps, NOISE_DRAW)
            weights, order = noisy.sort(descending=True)
            ids = ids.gather(-1, order)
            ids, weights = ids[:, : settings.max_topk], weights[:, : settings.max_topk]
            weights = weights / weights.sum(-1, keepdim=True)
        if settings.variant == "gumbel":  # the argmax is a sample of the weights; what has none keeps none
            noise = gumbel(rows.keys, rows.steps, NOISE_DRAW, weights.shape[-1])
            weights = ((weights.log() + noise) / settings.gumbel_temperature).softmax(-1)
        return Mixture(ids, weights)

    def meaning(self, concept: Mixture) -> Tensor:
        """y_t: (batch,) id of the largest weight, what a latent step stands for."""
        if self.settings.variant != "gumbel":
            return concept.ids[:, 0]  # by falling weight
        return concept.ids.gather(-1, concept.weights.argmax(-1, keepdim=True))[:, 0]

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule; instead of feeding the marker in a step of its own, it is forced."""
        concept = self.concept(logits, rows)
        stop = self.meaning(concept) == self.close
        if self.settings.cold_stop_entropy > 0:
            stop = stop | cold_stop(self.settings, logits, rows, rows.mode == Mode.LATENT)
        return Latent(self.backbone.mix(concept.ids, concept.weights), stop, concept)

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See LatentRule; a row whose latent step stands for the end of sequence is done."""
        step = super().step(hidden, logits, rows)
        if step.mode is not None and step.mixture is not None:
            ends = (step.mode == Mode.LATENT) & (self.meaning(step.mixture)[:, None] == self.eos).any(1)
            step.mode = torch.where(ends, Mode.DONE, step.mode)
        return step


class DiscreteRule(StepRule):
    """Sampled tokens, in the thinking by its own filters, and cold stop.

    Args:
        settings: of the thinking.
        config: of the answer.
    """

    def __init__(self, backbone: Backbone, settings: SoftThinkingConfig, config: GenerateConfig) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.settings, self.filters = settings, filters(settings)

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See StepRule."""
        thinks = ~rows.in_answer
        sayable = self.backbone.sayable(logits)
        thought = self.filters.choose(sayable, rows.keys, rows.steps)
        token = torch.where(thinks, thought, self.sampling.choose(sayable, rows.keys, rows.steps))
        stop = cold_stop(self.settings, logits, rows, thinks)
        forced = close_marker(self.backbone, stop)
        return Step(self.backbone.embed(token), None, torch.where(stop, -1, token), forced=forced)


class MixtureOfInputsRule(StepRule):
    """Sampled tokens, fed as mixtures: `moi`.

    Args:
        settings: of the mixture.
        config: of the sampling.
    """

    def __init__(self, backbone: Backbone, settings: SoftThinkingConfig, config: GenerateConfig) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.settings = settings

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See StepRule."""
        token = self.sampling.choose(self.backbone.sayable(logits), rows.keys, rows.steps)
        ids, p = top_k_mixture(logits, self.settings.num_candidates, self.settings.candidate_temperature)
        ids = torch.cat([ids, token[:, None]], dim=-1)  # beside the candidates, whether it is one of them or not
        return Step(self.backbone.mix(ids, posterior(p, self.settings.beta)), None, token)


def posterior(p: Tensor, beta: float) -> Tensor:
    """Weights of a Mixture of Inputs: the mean under the prior Dirichlet(H p) and beta + 1 - H counts of the token.

    Args:
        p: (batch, n) probabilities of the candidates; H is their entropy as a share of ln n.
    Returns: (batch, n + 1), H p_i / (beta + 1) and, for the sampled token, (beta + 1 - H) / (beta + 1).
    """
    h = torch.special.entr(p).sum(-1, keepdim=True) / log(max(p.shape[-1], 2))  # one candidate has no entropy
    return torch.cat([h * p, beta + 1 - h], dim=-1) / (beta + 1)


def filters(settings: SoftThinkingConfig) -> Sampling:
    """Those of the thinking."""
    return Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, min_p=settings.min_p)


def cold_stop(settings: SoftThinkingConfig, logits: Tensor, rows: RowState, thinks: Tensor) -> Tensor:
    """Which rows have been all but certain of N next tokens in a row: (batch,) bool; counts in `rows.memory`.

    Args:
        thinks: (batch,) bool, rows whose steps count.
    """
    if settings.cold_stop_entropy == 0:
        return torch.zeros_like(thinks)
    certain = entropy(logits.float() / settings.temperature) < settings.cold_stop_entropy
    before = rows.memory.get("num_certain", torch.zeros_like(rows.steps))
    num_certain = torch.where(certain & thinks, before + 1, 0)
    stop = num_certain >= settings.cold_stop_steps
    rows.memory["num_certain"] = torch.where(stop, 0, num_certain)
    return stop
