"""CODI: chain of thought compressed into latents by self-distillation (Shen et al., arXiv:2502.21074).

One model learns two tasks in the same step, in one stage (section 3). The teacher writes the chain, then the answer;
the student feeds K latents instead, each a projection of the last hidden state, then answers. At the token right before
the answer the student's hidden states are pulled to the teacher's, in every layer.

That token is the last of the close marker in both sequences: the layout's markers play the part of the paper's begin
and end of thought, and of its prompt `The answer is:`, whose colon is distilled there. Its place follows from lengths,
no id is searched for. As in the released code the teacher does not see the last step, from which it could copy the
answer, and a layer's deviation, over the rows of a micro-batch, divides the distance instead of the states.

Differs from the code (zhenyi4/codi): one teacher pass gives its loss and the states to distil, where the code runs two
that differ in their dropout masks alone; the teacher has both markers; answers that do not start with a digit and long
rows stay in; padding is masked in every pass (those without a mask cannot be asked for); the markers' rows are trained
under LoRA, as the paper says (the code freezes them, but does not ask its teacher for one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from latbench.config import GenerateConfig, NonNegativeFloat, Positive
from latbench.decoding.loop import unroll
from latbench.decoding.rule import FixedLatents, RecordedLatents, StepRule
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, RolloutBatch, Tokens
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import hidden_distillation, token_cross_entropy


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class CodiConfig(MethodConfig):
    """The defaults are the released code's for GPT-2."""

    num_latents: Annotated[int, Field(ge=0)] = 6
    """K, latent steps of every question."""
    projection: bool = True
    """Project a hidden state before it is fed; false: the hidden state itself is fed (an ablation)."""
    projection_size: Positive | None = None
    """Width between the two layers of the projection; null: the model's."""
    projection_norm: bool = True
    """End the projection with a LayerNorm."""
    kd_weight: NonNegativeFloat = 1.0
    """beta, weight of the distillation; the paper has 20 for Llama."""
    teacher_weight: NonNegativeFloat = 1.0
    """gamma, weight of the teacher's cross-entropy."""
    drop_last_step: bool = True
    """Leave the last step out of the teacher's chain, from which it could copy the answer."""
    divide: Literal["loss", "activations"] = "loss"
    """What a layer's deviation divides: the loss, as in the released code, or the states, as in the paper's text."""


@dataclass(kw_only=True)
class CodiBatch(RolloutBatch):
    """The student's questions and answers, and the teacher's sequences.

    Args:
        teacher: question, chain, close marker and answer, supervised after the question.
        before_answer: (batch,) position in `teacher` of the last id before the answer.
    """

    teacher: Tokens
    before_answer: Tensor


@register_method("codi", config=CodiConfig)
class Codi(Method[CodiConfig, CodiBatch]):
    """Student and teacher are one model, trained together."""

    batch_terms = frozenset({"kd"})

    def __init__(self, backbone: Backbone, config: CodiConfig) -> None:
        super().__init__(backbone, config)
        self.check_room(config.num_latents, "method.num_latents")
        if config.projection:
            size, inner = backbone.hidden_size, config.projection_size or backbone.hidden_size
            layers = [nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size)]
            norm = [nn.LayerNorm(size)] if config.projection_norm else []
            table = backbone.model.get_input_embeddings().weight
            self.heads["projection"] = nn.Sequential(*layers, *norm).to(table.device, table.dtype)

    def stages(self) -> list[Stage]:
        """One."""
        return [Stage(name="codi")]

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """Both sequences must fit."""
        length = len(self.backbone.layout.encode(example.without_steps(None))) + self.config.num_latents
        return self.backbone.beyond_context(length) or self.backbone.too_long(self.taught(example))

    def check_training(self, stages: Sequence[Stage]) -> None:
        """The student's latents go through a cache, and the distilled position is that of the answer."""
        self.backbone.require_cache()
        self.require_close_marker("distils")

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Refuse what has nothing to distil."""
        if not any(self.taught(example).steps for example in examples):
            raise ValueError(
                f"method {self.name!r} needs reasoning steps, but none of {len(examples)} examples has one for the "
                f"teacher (method.drop_last_step is {self.config.drop_last_step}); use other data, or method 'direct'"
            )

    def taught(self, example: Example) -> Example:
        """What the teacher reads."""
        return replace(example, steps=example.steps[:-1]) if self.config.drop_last_step else example

    def batch(self, examples: Sequence[Example], stage: Stage) -> CodiBatch:
        """The student's question and answer; the teacher's sequence, supervised after the question."""
        student = self.backbone.batch_rollout([example.without_steps(None) for example in examples])
        taught = [self.taught(example) for example in examples]
        teacher = self.backbone.batch_sequences(taught, supervise="steps")
        pieces = [self.backbone.layout.encode(example) for example in taught]
        return CodiBatch.of(
            student,
            num_items={**student.num_items, "kd": len(examples), "teacher_ce": teacher.num_items["ce"]},
            teacher=teacher.tokens,
            before_answer=torch.tensor([len(p.prompt) + len(p.steps) + len(p.close) - 1 for p in pieces]),
        )

    def loss(self, batch: CodiBatch, stage: Stage) -> Losses:
        """L = L_student + beta L_KD + gamma L_teacher."""
        return self.distil(batch)

    def project(self, hidden: Tensor) -> Tensor:
        """(batch, hidden) last hidden state -> next input embedding."""
        return self.heads["projection"](hidden).to(hidden.dtype) if self.config.projection else hidden

    def distil(self, batch: CodiBatch, record: RecordedLatents | None = None) -> Losses:
        """Student: question, z_1 ... z_K with z_{k+1} the projected state at z_k, answer. Teacher: the whole text."""
        latents = FixedLatents(self.backbone, self.config.num_latents, self.project)
        state = unroll(self.backbone, self.backbone.prefill(batch.question), latents, record=record)
        student = self.backbone.feed(state, batch.target, layers=True)
        supervised = batch.teacher.labels != IGNORE_INDEX
        embeds = self.backbone.embed(batch.teacher.ids)
        teacher = self.backbone.causal(embeds, batch.teacher.positions, supervised, layers=True)
        assert student.layers is not None
        assert teacher.layers is not None
        rows = torch.arange(len(embeds), device=embeds.device)
        closed = len(self.backbone.layout.close) - 1
        return Losses(
            ce=token_cross_entropy(student.logits[:, :-1], batch.target.labels[:, 1:]),  # the marker's first is forced
            kd=hidden_distillation(
                [layer[:, closed] for layer in student.layers],
                [layer[rows, batch.before_answer] for layer in teacher.layers],
                divide=self.config.divide,
                weight=self.config.kd_weight,
            ),
            teacher_ce=token_cross_entropy(
                teacher.logits, batch.teacher.labels[supervised], weight=self.config.teacher_weight
            ),
        )

    def rule(self, config: GenerateConfig) -> StepRule:
        """K latents, the close marker, then the answer."""
        return self.fixed_rule(self.config.num_latents, config, self.project)
