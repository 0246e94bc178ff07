"""Settings of LiteReason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.config import Fraction, GenerateConfig, Positive, PositiveFloat
from latbench.method import MethodConfig
from latbench.task import STRICT

TagText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s\d](?:.*[^\s\d])?$")]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LiteReasonDecoding:
    """Decoding settings of LiteReason alone: the controls that tell what its latents are good for."""

    latents: Literal["projected", "zeros", "none"] = "projected"
    """What follows a tag: the projector's latents, as many zero vectors, or nothing (the tag alone)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LiteReasonConfig(MethodConfig):
    """Tag, projector, masked traces, refresh; the values are those of the released code."""

    tag: tuple[TagText, TagText] | None = None
    """Texts before and after the number of a tag; null: `<implicit_thought>` and `</implicit_thought>`, or `[` and `]`
    where the tokenizer needs more than 15 tokens for the former, as one of bytes does."""
    max_budget: Positive = 5
    """N_max: latent steps that a tag asks for at most; a larger number counts as this one."""
    tokens_per_latent: Positive = 5
    """Tokens of a sentence that a latent step stands for; the tag of c tokens says c / 5, rounded down, at least 1."""
    replaced: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.10, 0.25)
    """Shares of a trace's sentences that tags replace; each masked trace draws one of them."""
    spaced: bool = True
    """A space before and after each tag of a masked trace."""
    blocks: Positive = 3
    """Blocks of the projector, each at first a copy of the last layer's MLP."""
    traces: Literal["gold", "own"] = "gold"
    """Whose reasoning is masked: the data's own chains, or answers that the model draws itself and that are right
    (rejection sampling, as published)."""
    samples: Positive = 5
    """Answers drawn to each training question for own traces."""
    sample_temperature: PositiveFloat = 0.7
    """Temperature of own traces."""
    sample_top_p: Share = 0.8
    """Mass that own traces are drawn from."""
    sample_top_k: Annotated[int, Field(ge=0)] = 20
    """Tokens that own traces are drawn from; 0: all."""
    sample_tokens: Positive = 2048
    """Most tokens of an own trace, its answer included."""
    loss_from: Literal["first", "last"] = "first"
    """The projector's loss is on the text after the first tag, or after the last."""
    teach_share: Annotated[Fraction, Field(lt=1)] = 0.0
    """Share of `train.epochs` in a stage before, in which the model itself learns to write tags, from masked traces; 0:
    none, as published, where a request in the prompt does it. A model that cannot follow a request needs it."""
    ask: str | None = None
    """Request after the question of a model without think tokens; null: to reason and to box the answer, "": none."""
    guide: bool = True
    """Such a model is also told how to use tags, unless the question already tells it."""
    latents: Literal["recomputed", "drawn"] = "recomputed"
    """Latents in the updates of reinforcement learning: by the present weights, or those of the rollout."""
    refresh_every: Annotated[int, Field(ge=0)] | None = None
    """Rollouts between two refreshes of the projector, none of which follows the last rollout; null: those of a pass
    over the training questions; 0: never."""
    refresh_share: Share = 0.1
    """Share of the correct traces since the last refresh that it learns from."""
    refresh_lr: PositiveFloat = 1e-4
    """Learning rate of a refresh."""
    refresh_batch: Positive = 1
    """Traces in an update of a refresh."""

    def draws(self, generate: GenerateConfig) -> bool:
        """Latents are no draws; text is."""
        return super().draws(generate)
