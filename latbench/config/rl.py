"""The section `train.rl.*`: reinforcement learning as a last stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.config.fields import Fraction, NonNegativeFloat, Positive, PositiveFloat
from latbench.config.generate import GenerateConfig
from latbench.task import STRICT, YOUNGER


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RolloutConfig:
    """How answers are drawn in reinforcement learning; held-out questions are answered with the same caps, greedily.

    `generate.*` has no part in it, since it changes an evaluation and not the training.
    """

    batch_size: Positive = 256
    """Rows decoded at once."""
    max_new_tokens: Positive = 256
    """Emitted tokens per row, reasoning and answer together; a row that ends here is invalid."""
    max_latents: Annotated[int, Field(ge=0)] = 128
    """Latent steps per row; then the close marker is forced, and the answer is invalid."""
    temperature: PositiveFloat = 1.0
    """Temperature of text tokens, in drawing and in their log-probabilities alike; it divides the logits."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw among so many most probable tokens; 0: among all. Log-probabilities are not renormalised over them."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the most probable tokens that hold this share; log-probabilities are not renormalised over it."""
    latent_noise: NonNegativeFloat = 1.0
    """Scale of the noise on latent steps; at 0 latents are not explored."""
    method: dict[str, Any] = Field(default_factory=dict)
    """Further decoding settings of the method, as in `generate.method.*`, without `latent_noise`."""

    def sampled(self, kind: type | None) -> GenerateConfig:
        """Decoding settings of rollouts.

        Args:
            kind: class of the method's own decoding settings; None: it has none.
        """
        return self._decoding(kind, self.latent_noise)

    def greedy(self, kind: type | None) -> GenerateConfig:
        """Decoding settings of held-out questions."""
        return dataclasses.replace(self._decoding(kind, 0.0), temperature=0.0)

    def _decoding(self, kind: type | None, latent_noise: float) -> GenerateConfig:
        settings = dataclasses.asdict(cast(Any, self))
        del settings["latent_noise"]
        known = {field.name for field in dataclasses.fields(cast(Any, kind))} if kind else set()
        own = ({"latent_noise": latent_noise} if "latent_noise" in known else {}) | self.method
        return GenerateConfig(**{**settings, "method": own or None})


# What a variant sets where the key itself is null.
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"average": "sequence", "deviation": "unbiased", "clip_high": 0.2, "dynamic": False},
    "dr_grpo": {"average": "constant", "deviation": "none", "clip_high": 0.2, "dynamic": False},
    "dapo": {"average": "token", "deviation": "unbiased", "clip_high": 0.28, "dynamic": True},
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RLConfig:
    """Reinforcement learning by group-relative advantages: the stage `rl` after a method's supervised stages.

    A key that is null has the value of the variant: GRPO (arXiv:2402.03300, section 4.1; without its divergence term
    unless `kl` is set), Dr. GRPO (arXiv:2503.20783, section 3.2), DAPO (arXiv:2503.14476, section 3).
    """

    variant: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """Named setting of average, deviation, clip_high and dynamic."""
    steps: Positive = 200
    """Optimiser updates of the stage."""
    lr: PositiveFloat = 1e-6
    """Learning rate; `train.stages.rl.lr` goes before it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls in this stage, in place of `train.schedule`."""
    warmup_ratio: Fraction = 0.0
    """Share of the updates with a rising rate, in place of `train.warmup_ratio`."""
    prompts: Positive = 32
    """Groups of one rollout, over all processes; `train.batch_size` has no part in this stage."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G, answers drawn for each prompt."""
    minibatches: Positive = 1
    """Optimiser updates that the groups of a rollout are cut into."""
    passes: Positive = 1
    """Times that a rollout is gone through (mu of GRPO)."""
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    """How answers are drawn, in the keys below."""
    reward: Literal["correct", "latent_cost", "per_latent", "chain_cost", "overlong"] = "correct"
    """Reward of an answer: 1 if it is correct, else 0; the same less `latent_cost` for each latent step; the same
    divided by their number; the same times what `chain_cost` leaves of it; or the same less what its length costs
    beyond `overlong_free` steps, the soft overlong punishment of DAPO (arXiv:2503.14476, equation 13)."""
    latent_cost: NonNegativeFloat = 0.01
    """What a latent step costs with reward=latent_cost."""
    chain_cost: NonNegativeFloat = Field(default=0.01, json_schema_extra=YOUNGER)
    """Share of the reward that each step of the chain, latent or token, costs with reward=chain_cost; a wrong answer is
    worth nothing at any length."""
    overlong_free: Annotated[int, Field(ge=0)] = Field(default=128, json_schema_extra=YOUNGER)
    """Steps of an answer, latents and tokens, that cost nothing with reward=overlong."""
    overlong_most: Positive = Field(default=256, json_schema_extra=YOUNGER)
    """Steps from which on an answer costs 1 with reward=overlong; the cost grows linearly up to there."""
    deviation: Literal["unbiased", "biased", "none"] | None = None
    """Standard deviation that divides the centred rewards of a group: over G - 1, over G, or no division."""
    advantage_epsilon: PositiveFloat = 1e-6
    """Small number added to the deviation that divides rewards."""
    average: Literal["sequence", "token", "constant"] | None = None
    """How the loss is averaged: over each answer's actions and then over answers; over all actions of the update; or an
    answer's actions summed and divided by a constant, then over answers."""
    constant_length: Positive | None = None
    """Constant that divides the sum of an answer's actions with average=constant; null: `rollout.max_new_tokens`."""
    parts: Literal["joint", "apart"] = "joint"
    """Average latent steps and text together, or each for itself and add the two means (`apart`, CoLaR)."""
    learn_from: Literal["all", "latents", "text"] = "all"
    """Actions that the loss is over: all, latent steps alone, or text alone."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ratios of new to old probability below 1 - clip_low are clipped."""
    clip_high: PositiveFloat | None = None
    """Ratios of new to old probability above 1 + clip_high are clipped."""
    dual_clip: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """c of dual clip (arXiv:1912.09729, equation 5): with a negative advantage the loss is at most c times its size."""
    ratio_cap: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """Two-sided clip (arXiv:2505.07291, section 3.4): ratios are cut at this value, whatever the advantage."""
    negative_weight: NonNegativeFloat = 1.0
    """Factor on the loss of answers with a negative advantage."""
    kl: NonNegativeFloat = 0.0
    """beta: weight of the divergence (k3 estimator) from the model at the stage's beginning, a copy of it."""
    kl_corrected: bool = False
    """Multiply that divergence by the ratio, which makes its gradient that of the divergence itself
    (arXiv:2512.02556, section 3.1); TRL's default."""
    invalid: Literal["keep", "include", "exclude"] = "keep"
    """What happens to answers without an end within the caps: nothing special (`keep`); they count in mean and
    deviation of their group and get advantage 0 (`include`); or they do not count and get advantage 0 (`exclude`)."""
    first_action: Literal["all", "winner"] = "all"
    """Answers of a group that move their first action: all, or the correct one of the highest mean log-probability
    alone (`winner`; Latent-GRPO, arXiv:2604.27998: all first latents of a group come from one state)."""
    dynamic: bool | None = None
    """Dynamic sampling: groups whose rewards are all equal are drawn anew."""
    max_draws: Positive = 10
    """Most draws of `prompts` groups for one rollout; without dynamic sampling, most rollouts in a row without a group
    of unequal rewards."""
    eval_every: Annotated[int, Field(ge=0)] = 25
    """Updates between greedy evaluations on held-out questions; 0: none."""
    eval_questions: Positive = 256
    """Held-out questions, at most 256."""
    keep_best: bool = False
    """End with the weights of the best held-out accuracy instead of the last ones."""

    def __post_init__(self) -> None:
        for name, value in VARIANTS[self.variant].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.constant_length is None:
            object.__setattr__(self, "constant_length", self.rollout.max_new_tokens)
        if self.minibatches > self.prompts:
            raise ValueError(
                f"train.rl.minibatches must be at most train.rl.prompts = {self.prompts}, got {self.minibatches}; "
                "a group is never divided"
            )
        if self.overlong_free >= self.overlong_most:
            raise ValueError(
                f"train.rl.overlong_free must be below train.rl.overlong_most = {self.overlong_most}, got "
                f"{self.overlong_free}; the cost of length grows between the two"
            )
        if self.keep_best and not self.eval_every:
            raise ValueError("train.rl.keep_best needs train.rl.eval_every above 0; nothing is evaluated at 0")

    @property
    def updates(self) -> int:
        """Optimiser updates from one rollout."""
        return self.passes * self.minibatches
