"""Settings of Latent-SFT: training, reinforcement learning, and the noise of inference."""

from __future__ import annotations

from math import log
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import YOUNGER, Fraction, GenerateConfig, NonNegativeFloat, Positive, PositiveFloat
from latbench.method import MethodConfig
from latbench.task import STRICT


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class LatentSFTDecoding:
    """Noise on the latent steps of inference, for several samples per question."""

    latent_noise: NonNegativeFloat = 0.0
    """Scale of the Gumbel noise on the log-probabilities of a superposition; 0: none."""
    latent_noise_temperature: PositiveFloat = 1.0
    """Temperature that divides the perturbed log-probabilities."""


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class LatentSFTConfig(MethodConfig):
    """What the two versions of the paper, its code and its ablations switch; the defaults are the code of v2."""

    tokens_per_latent: Positive = 2  # r
    top_k: Positive | None = 10  # k, entries of a superposition; None: the whole vocabulary (v1)
    latent_space: Literal["vocab", "hidden"] = "vocab"  # hidden: the hidden state itself is the latent (ablation)
    scores: Literal["embedding", "head"] = "embedding"  # which table scores the encoder's states; head: the paper
    temperature: PositiveFloat = 1.0  # of the encoder's superposition; the paper's is 1
    # Nats; a temperature is found for each latent so that its superposition is this mixed. Not in the paper: at a fixed
    # one small tied models collapse to single tokens, and which temperature does not depends on their scale.
    target_entropy: PositiveFloat | None = None
    induction_mask: bool = True  # LTIM; off: plain causal
    supervision_mask: bool = True  # LTSuM; off: plain causal over the interleaved sequence, at its own positions
    positions: Literal["two_track", "interleaved"] = "two_track"  # of the decoder in stage 1; interleaved: code of v1
    stage1: Literal["sequential", "joint"] = "sequential"  # encoder, decoder, union; or all at once
    stage1_share: Annotated[Fraction, Field(gt=0, lt=1)] = 0.3  # of train.epochs; the paper's 3 x 10 of 100
    stage1_reduction: Literal["tokens", "segments"] = "tokens"  # segments: mean of the segments' means (paper)
    stage2: Literal["joint", "alternating"] = "joint"  # alternating: a KL step, then a CE step (a review of v1)
    kl_weight: NonNegativeFloat = 1.0
    ce_weight: NonNegativeFloat = 1.0
    noise: NonNegativeFloat = 1.0  # scale of the Gumbel noise on soft labels in stage 2; 0: none
    noise_temperature: PositiveFloat = 1.0
    # of reinforcement learning (policy.py); the scale of the noise is train.rl.rollout.latent_noise
    rl_density: Literal["latent_grpo", "soft_grpo"] = Field(default="latent_grpo", json_schema_extra=YOUNGER)
    """Density of a latent action: that of Latent-GRPO, or SofT-GRPO's with two-sided noise."""
    rl_top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, json_schema_extra=YOUNGER)
    """Mass of the tokens that a latent step of a rollout may mix, at least `method.top_k` of them."""
    rl_temperature: PositiveFloat = Field(default=1.0, json_schema_extra=YOUNGER)
    """tau, which divides the perturbed scores."""
    rl_noise_clip: tuple[float, float] | None = Field(default=(-1.5, 3.0), json_schema_extra=YOUNGER)
    """Lower and upper clip of the noise, -a and b; null: noise as it is drawn."""
    rl_one_sided: bool = Field(default=True, json_schema_extra=YOUNGER)
    """Shift the clipped noise above 0; false: two-sided noise."""
    rl_margin: NonNegativeFloat = Field(default=0.0, json_schema_extra=YOUNGER)
    """delta, added to that shift."""
    rl_sign_rule: Literal["correct", "bounded", "off"] = Field(default="correct", json_schema_extra=YOUNGER)
    """What happens where a negative advantage meets a negative margin."""

    def draws(self, generate: GenerateConfig) -> bool:
        """Noise on the latent steps draws at any temperature of the answer."""
        return super().draws(generate) or generate.own(LatentSFTDecoding).latent_noise > 0

    def __post_init__(self) -> None:
        if self.target_entropy is not None and self.top_k is not None and self.target_entropy >= log(self.top_k):
            raise ValueError(
                f"method.target_entropy must be below ln(method.top_k) = {log(self.top_k):.2f}, "
                f"got {self.target_entropy}; lower it or raise method.top_k"
            )
        if self.latent_space == "hidden" and self.noise > 0:
            raise ValueError(
                f"method.noise must be 0 with method.latent_space=hidden, got {self.noise}; "
                "the noise is on vocabulary mixtures, which hidden states are not"
            )
        if self.rl_one_sided and self.rl_noise_clip is None:
            raise ValueError(
                "method.rl_one_sided shifts noise by its lower clip, but method.rl_noise_clip is null; "
                "set the clip, or method.rl_one_sided=false"
            )
        if self.rl_noise_clip is not None and self.rl_noise_clip[0] >= self.rl_noise_clip[1]:
            raise ValueError(f"method.rl_noise_clip must be [lower, higher], got {list(self.rl_noise_clip)}")
