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

    tokens_per_latent: Positive = 2
    """r, chain tokens that one latent stands for."""
    top_k: Positive | None = 10
    """k, entries of a superposition; null: the whole vocabulary (v1)."""
    latent_space: Literal["vocab", "hidden"] = "vocab"
    """What a latent is: a superposition of the vocabulary, or the hidden state itself (an ablation)."""
    scores: Literal["embedding", "head"] = "embedding"
    """Table that scores the encoder's states: the input embeddings, as in the code, or the LM head, as in the paper."""
    temperature: PositiveFloat = 1.0
    """Temperature of the encoder's superposition; the paper's is 1."""
    target_entropy: PositiveFloat | None = None
    """Entropy in nats that each superposition of the encoder gets, by a temperature of its own; null: one temperature
    for all. Not in the paper: at a fixed temperature small tied models collapse to single tokens."""
    induction_mask: bool = True
    """LTIM: a compress slot of the encoder is seen by itself alone; false: plain causal."""
    supervision_mask: bool = True
    """LTSuM: a segment of the decoder sees itself and its latent alone; false: plain causal over the interleaved
    sequence, at its own positions."""
    positions: Literal["two_track", "interleaved"] = "two_track"
    """Positions of the decoder in stage 1: those of inference, with segments beside them, or of the whole sequence (the
    code of v1)."""
    stage1: Literal["sequential", "joint"] = "sequential"
    """Order of stage 1: encoder, decoder, then both, or all at once."""
    stage1_share: Annotated[Fraction, Field(gt=0, lt=1)] = 0.3
    """Share of train.epochs for stage 1; the paper has three times 10 of 100."""
    stage1_reduction: Literal["tokens", "segments"] = "tokens"
    """What the loss of stage 1 is a mean over: tokens, or the means of segments (the paper)."""
    stage2: Literal["joint", "alternating"] = "joint"
    """Both losses in each step of stage 2, or one after the other (a review of v1)."""
    kl_weight: NonNegativeFloat = 1.0
    """Weight of the divergence from the soft labels in stage 2."""
    ce_weight: NonNegativeFloat = 1.0
    """Weight of the cross-entropy of close marker and answer in stage 2."""
    noise: NonNegativeFloat = 1.0
    """Scale of the Gumbel noise on the soft labels of stage 2; 0: none."""
    noise_temperature: PositiveFloat = 1.0
    """Temperature that divides the perturbed log-probabilities of the soft labels."""
    rl_density: Literal["latent_grpo", "soft_grpo"] = Field(default="latent_grpo", json_schema_extra=YOUNGER)
    """Density of a latent step: that of Latent-GRPO, or of SofT-GRPO with two-sided noise."""
    rl_top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, json_schema_extra=YOUNGER)
    """Mass of the tokens that a latent step of a rollout may mix, at least `method.top_k` of them."""
    rl_temperature: PositiveFloat = Field(default=1.0, json_schema_extra=YOUNGER)
    """tau, the temperature that divides the perturbed scores of a latent step."""
    rl_noise_clip: tuple[float, float] | None = Field(default=(-1.5, 3.0), json_schema_extra=YOUNGER)
    """Lower and upper clip of the noise, -a and b; null: noise as it is drawn."""
    rl_one_sided: bool = Field(default=True, json_schema_extra=YOUNGER)
    """Shift the clipped noise above 0; false: two-sided noise."""
    rl_margin: NonNegativeFloat = Field(default=0.0, json_schema_extra=YOUNGER)
    """delta, added to the shift of the noise; the margin that a component begins with at least."""
    rl_sign_rule: Literal["correct", "bounded", "off"] = Field(default="correct", json_schema_extra=YOUNGER)
    """Slope of a component with a negative margin under a negative advantage: with the sign of the paper (`correct`),
    with the other sign but bounded, as in the released code (`bounded`), or as the density has it (`off`)."""

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
