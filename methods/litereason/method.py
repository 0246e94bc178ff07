r"""LiteReason: text with tags that each ask for a few latent steps of a projector (Gurung et al., arXiv:2512.02240).

The model writes a tag such as `<implicit_thought>3</implicit_thought>` in the middle of its reasoning. So many inputs
after it are no tokens but latents: a projector's output on the last hidden state, one after another. Then text goes
on, any number of times in one answer.

Three stages. Traces of correct reasoning are collected, and sentences of them are replaced by tags; the projector alone
learns to make latents after which the frozen model goes on as the trace does; reinforcement learning (`train.rl`)
trains the model on its sampled tokens, tags included, with latents as constants, and refreshes the projector on fresh
correct traces once for each pass over the questions.

Differs from the released code (Alex-Gurung/LiteReason@cf68f72): latents are computed through one cache that keeps the
whole graph, where the code cuts it at the last latent of a tag in its cached mode; latents that are not finite are not
set to 0; sentences are split by a rule of ours; each pass draws one masked trace for each question, where ten are made
of each trace in advance, and a question without a right answer gives its turn to another; masked traces end with the
reference answer, and the context alone bounds their length; the last checkpoint is taken, not the best; a refreshed
trace is joined like those of the first training. By default the masked traces are the data's own chains, so that
methods are compared on the same data (`traces: own` is the paper's), and `teach_share` is for models that cannot be
asked to write tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latbench.config import GenerateConfig, RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import StepRule
from latbench.method import Losses, Stage
from latbench.registry import register_method
from latbench.task import Example
from latbench.training.rl.action_tensors import text_log_probs
from latbench.training.rl.groups import Group
from methods.litereason import refresh
from methods.litereason.config import LiteReasonConfig, LiteReasonDecoding
from methods.litereason.projector import fed_with, projected
from methods.litereason.rule import TagRule
from methods.litereason.tagged import TaggedBatch, TaggedModel
from methods.litereason.traces import TraceFile, choosable, reasoning

TEACH, PROJECTOR = "tags", "projector"


@register_method("litereason", config=LiteReasonConfig, decoding=LiteReasonDecoding)
class LiteReason(TaggedModel):
    """Question, text and latents in turn, answer."""

    writes_marks = True

    # stages

    def stages(self) -> list[Stage]:
        """`tags`, if the model has to be taught them, trains all; `projector` trains the projector alone."""
        share = self.config.teach_share
        teach = [Stage(name=TEACH, share=share)] if share else []
        return [*teach, Stage(name=PROJECTOR, share=1 - share, trainable=("heads.",))]

    def check_training(self, stages: Sequence[Stage]) -> None:
        """Latents that the model makes while it learns go through a cache."""
        recomputed = self.config.latents == "recomputed"
        if any(stage.name == TEACH or (stage.rollouts and recomputed) for stage in stages):
            self.backbone.require_cache()

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Draw own traces, where they are learnt from.

        Raises: ValueError: there is no task that scores them, or none is right.
        """
        self.own = None
        self.asked = examples if stage.rollouts else ()
        refreshed = stage.rollouts and self.config.refresh_every != 0
        if refreshed and self.held_out is not None and not self.held_out.task.answers_teach:
            raise ValueError(
                f"answers of task {self.held_out.task.name!r} are not what a model should write, so the projector "
                "cannot be refreshed on it; set method.refresh_every=0"
            )
        if stage.rollouts or self.config.traces == "gold":
            return
        if self.held_out is None:
            raise ValueError(
                "method.traces is own, but no task is at hand that says which answers are right; set it to gold"
            )
        self.own = TraceFile.collect(
            self, examples, self.held_out, folder, self.tags, lambda example: self.beyond_context(example) is None
        )

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """Latents and tags count like tokens; a chain without a sentence to replace is of no use."""
        if self.config.traces == "own":  # `prepare` looks at the traces
            pieces = self.pieces(example)
            return self.backbone.beyond_context(len(pieces.prompt) + len(pieces.answer) + 1)
        return self.beyond_context(example) if choosable(example.steps, self.tags) else "no reasoning step to replace"

    def batch(self, examples: Sequence[Example], stage: Stage) -> TaggedBatch:
        """Whole sequences with a place for each latent."""
        return self.trace_batch(self.masked_examples(examples), teach=stage.name == TEACH)

    # losses

    def loss(self, batch: TaggedBatch, stage: Stage) -> Losses:
        """Cross-entropy of what follows the tags, with gradients through the model to all latents before."""
        self.backbone.train(self.training and stage.name == TEACH)  # no dropout in what is frozen
        return self.continuation(batch)

    # reinforcement learning

    def rl_stage(self) -> Stage:
        """The model; the projector changes in refreshes alone."""
        return replace(super().rl_stage(), trainable=("backbone.",), changed=("heads.",))

    def check_rl(self, config: RLConfig) -> None:
        """Raises: ValueError: rollouts would feed other latents than updates."""
        if config.rollout.sampled(LiteReasonDecoding).own(LiteReasonDecoding).latents == "zeros":
            raise ValueError(
                "train.rl.rollout.method.latents is 'zeros', but updates feed what the projector makes; set it to "
                "projected or none"
            )

    def rollout_rule(self, config: GenerateConfig) -> StepRule:
        """The rule of inference; with the latents, where updates feed those of the rollout."""
        record = self.config.latents == "drawn"
        return TagRule(self.backbone, self.tags, self.projector, config, record=record)

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        """Of all sampled tokens, those of tags included; latents are constants made by the present weights."""
        if "latent" in batch.records:
            latents = batch.records["latent"]
        else:
            with torch.no_grad():
                latents = projected(self.backbone, self.projector, batch.sequence, batch.is_latent)
        embeds = fed_with(self.backbone.embed(batch.sequence.ids), batch.is_latent, latents)
        output = self.backbone.causal(embeds, batch.sequence.positions, select=batch.scored, prompts=batch.prompts)
        return ActionLogProbs(*text_log_probs(output.logits, batch.actions.ids, batch.temperature))

    def before_rollout(self, number: int, passes: int, config: RLConfig, folder: Path) -> None:
        """Refresh the projector where a pass over the questions has ended."""
        refresh.before_rollout(self, number, passes, folder)

    def after_rollout(self, groups: Sequence[Group], number: int, folder: Path) -> None:
        """Keep the correct traces of a rollout for the next refresh."""
        if self.config.refresh_every != 0:
            refresh.keep(self, groups, number, folder)

    # inference

    def rule(self, config: GenerateConfig) -> StepRule:
        """Text, with latents after each tag."""
        return TagRule(self.backbone, self.tags, self.projector, config)

    def generate(self, prompts: Sequence[Prompt | str], config: GenerateConfig, **options: Any) -> list[Generation]:
        """See Method; tags are no reasoning tokens, in a chain that is part of the one text neither."""
        answers = super().generate(prompts, config, **options)
        return answers if self.backbone.layout.close else [self._without_tags(answer) for answer in answers]

    def _without_tags(self, answer: Generation) -> Generation:
        if not answer.num_reasoning_tokens:
            return answer
        found = reasoning(answer.text)
        ids = self.tags.encode(answer.text if found is None else found)
        in_tags = sum(tag.end - tag.start for tag in self.tags.find(ids))
        return replace(answer, num_reasoning_tokens=max(answer.num_reasoning_tokens - in_tags, 0))
