"""Coconut: chain of continuous thought (Hao et al., arXiv:2412.06769).

A latent step feeds the last hidden state (after the final norm) back as the next input embedding (section 3). Stage k
of the curriculum replaces the first k reasoning steps by k * c latent steps, however many steps a problem has; the
final stage keeps S * c latent steps and drops whatever is left of the chain. The only loss is cross-entropy on the
remaining text, with gradients through all latents.

The layout's `<think>` and `</think>` play the paper's start and end markers: the state at the first is the first
latent, the second ends the thought. It follows the explicit steps that are left and is supervised there (in the paper
it stands before them); without any it is forced after the last latent. In the layout `plain_hash_answer`, which has
none, the end of the question and `###` do.

The ablation "pause as thought" (Table 1) feeds one learned vector in place of every hidden state; it is unrolled like
these, although one pass would give the same.

Differs from the released code (facebookresearch/coconut): the optimiser starts anew at stage switches, not at every
epoch; the markers' rows are those of the model that training starts from, not copies of the row of `<<`; the last
epoch is taken instead of the best; the last latent is a pass of its own, so that n latents take n + 2 passes, not n +
1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from latbench.config import YOUNGER, Fraction, GenerateConfig, Positive, PositiveFloat
from latbench.decoding.loop import unroll
from latbench.decoding.rule import FixedLatents, RecordedLatents, StepRule
from latbench.decoding.sampling import uniform
from latbench.method import Losses, LossTerm, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import RolloutBatch
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy
from methods.pause import pause_embedding


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class CoconutConfig(MethodConfig):
    """The curriculum; c and S are the code's for GSM8K."""

    latents_per_step: Annotated[int, Field(ge=0)] = 2
    """c, latent steps that replace one reasoning step; 0: without thought (an ablation)."""
    max_stage: Positive = 3
    """S, the number of reasoning steps that latents replace; c times S latents are fed at inference."""
    first_stage: Annotated[int, Field(ge=0)] = 0
    """First stage of the curriculum; 1 where a `cot` run to start from takes the place of stage 0, max_stage + 1 for
    the final stage alone, without a curriculum."""
    final_share: Annotated[Fraction, Field(gt=0, lt=1)] = 0.5
    """Share of train.epochs for the final stage; the other stages divide the rest evenly."""
    stage_epochs: tuple[PositiveFloat, PositiveFloat] | None = None
    """Epochs of each stage (E of the paper), and of the final one; train.epochs is not read then. null: shares."""
    thought: Literal["hidden", "pause"] = Field(default="hidden", json_schema_extra=YOUNGER)
    """What a latent step feeds: the last hidden state, or a learned vector (`pause`, an ablation)."""
    uniform_prob: Fraction = 0.0
    """p, the probability that an example is trained at a stage drawn from 0 to its number of steps (for analysis)."""

    def __post_init__(self) -> None:
        if self.first_stage > self.max_stage + 1:
            raise ValueError(
                f"method.first_stage must be at most method.max_stage + 1 = {self.max_stage + 1}, the final stage, "
                f"got {self.first_stage}; lower it"
            )


@dataclass(kw_only=True)
class CoconutBatch(RolloutBatch):
    """Questions, and what follows their latents.

    Args:
        num_latents: (batch,) latent steps between the two.
    """

    num_latents: Tensor


@register_method("coconut", config=CoconutConfig)
class Coconut(Method[CoconutConfig, CoconutBatch]):
    """Question, latents, the steps that they do not replace, answer."""

    def __init__(self, backbone: Backbone, config: CoconutConfig) -> None:
        super().__init__(backbone, config)
        self.check_room(self.num_latents(config.max_stage), "method.latents_per_step * method.max_stage")
        if config.thought == "pause":
            self.heads["pause"] = pause_embedding(backbone)

    # curriculum

    def stages(self) -> list[Stage]:
        """`stage0` ... `stage<S>`, from `first_stage` on, then `final`, whose index is S + 1.

        One without latents trains the backbone alone, and no module that latents pass through.
        """
        final = self.config.max_stage + 1
        replacing = range(self.config.first_stage, final)
        share = self.config.final_share if replacing else 1.0
        epochs = self.config.stage_epochs or (None, None)
        stages = [
            *(
                Stage(name=f"stage{k}", index=k, epochs=epochs[0], share=(1 - share) / len(replacing))
                for k in replacing
            ),
            Stage(name="final", index=final, epochs=epochs[1], share=share),
        ]
        thinking = self.config.uniform_prob > 0
        return [
            stage if thinking or self.num_latents(stage.index) else replace(stage, trainable=("backbone.",))
            for stage in stages
        ]

    def num_latents(self, k: int) -> int:
        """n_k: latent steps at stage k."""
        return self.config.latents_per_step * min(k, self.config.max_stage)

    def num_replaced(self, k: int) -> int | None:
        """Steps that stage k drops; None: all."""
        return k if k <= self.config.max_stage else None

    def drawn_stages(self, examples: Sequence[Example], stage: Stage) -> list[int]:
        """k of each example: the stage's, or with probability p that of a uniform draw."""
        keys = self.keys(examples)
        draws = uniform(keys, torch.zeros_like(keys), num=2).tolist()
        return [
            int(place * (len(example.steps) + 1)) if coin < self.config.uniform_prob else stage.index
            for example, (coin, place) in zip(examples, draws, strict=True)
        ]

    def check_training(self, stages: Sequence[Stage]) -> None:
        """Latents go through a cache."""
        self.backbone.require_cache()

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Refuse a curriculum beyond the longest chain; the final stage needs none."""
        longest = max((len(example.steps) for example in examples), default=0)
        if stage.index <= self.config.max_stage and longest < self.config.max_stage:
            shorter = f"method.max_stage={longest} or " if longest else ""
            raise ValueError(
                f"method {self.name!r} replaces up to method.max_stage={self.config.max_stage} reasoning steps, but "
                f"none of {len(examples)} examples has more than {longest}; set {shorter}"
                f"method.first_stage={self.config.max_stage + 1} for no curriculum"
            )

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """Latents count like tokens."""
        possible = {stage.index, *(range(len(example.steps) + 1) if self.config.uniform_prob else ())}
        texts = {k: self.backbone.layout.encode(example.without_steps(self.num_replaced(k))) for k in possible}
        longest = max(len(text) + self.num_latents(k) for k, text in texts.items())
        return self.backbone.beyond_context(longest)

    # training

    def next_embeds(self, hidden: Tensor) -> Tensor:
        """(batch, hidden) last hidden state -> next input embedding."""
        if self.config.thought == "hidden":
            return hidden
        return cast(nn.Embedding, self.heads["pause"]).weight.expand_as(hidden)

    def batch(self, examples: Sequence[Example], stage: Stage) -> CoconutBatch:
        """Questions, what follows the latents, and how many there are in between."""
        drawn = self.drawn_stages(examples, stage)
        rollout = self.backbone.batch_rollout(
            [example.without_steps(self.num_replaced(k)) for example, k in zip(examples, drawn, strict=True)]
        )
        num_latents = torch.tensor([self.num_latents(k) for k in drawn])
        return CoconutBatch.of(rollout, num_latents=num_latents)

    def loss(self, batch: CoconutBatch, stage: Stage) -> Losses:
        """Cross-entropy of what follows the latents."""
        return Losses(ce=self.text_loss(batch))

    def text_loss(self, batch: CoconutBatch, record: RecordedLatents | None = None) -> LossTerm:
        """Question, then z_1 ... z_n with z_{i+1} the hidden state at z_i, then the text."""
        latents = FixedLatents(self.backbone, batch.num_latents, self.next_embeds)
        state = unroll(self.backbone, self.backbone.prefill(batch.question), latents, record=record)
        return token_cross_entropy(self.backbone.extend(state, batch.target), batch.target.labels)

    # inference

    def rule(self, config: GenerateConfig) -> StepRule:
        """c * S latents, as in the final stage."""
        return self.fixed_rule(self.num_latents(self.config.max_stage), config, self.next_embeds)
