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
set to 0; sentences are split by a rule of ours; masked traces are drawn anew at each pass instead of ten times in
advance, and end with the reference answer; the last checkpoint is taken, not the best; a refreshed trace is joined like
those of the first training. By default the masked traces are the data's own chains, so that methods are compared on the
same data (`traces: own` is the paper's), and `teach_share` is for models that cannot be asked to write tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latbench.config import GenerateConfig, RLConfig
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import StepRule
from latbench.decoding.sampling import uniform
from latbench.method import ActionLogProbs, Losses, LossTerm, Method, Stage
from latbench.model.backbone import Backbone
from latbench.model.layout import IGNORE_INDEX, Batch, Pieces, pad
from latbench.registry import register_method
from latbench.task import Example
from latbench.training.losses import token_cross_entropy
from latbench.training.rl.actions import text_log_probs
from latbench.training.rl.groups import Group
from methods.litereason import refresh
from methods.litereason.config import LiteReasonConfig, LiteReasonDecoding
from methods.litereason.projector import Projector, fed_with, projected, relative_scale
from methods.litereason.rule import TagRule
from methods.litereason.tags import Tags
from methods.litereason.traces import Trace, TraceFile, choosable, masked, num_replaced, reasoning

TEACH, PROJECTOR = "tags", "projector"
PLACEHOLDER = 0  # id of a latent in a sequence
SHARE_DRAW, SENTENCE_DRAW = 0, 1  # draws of a masked trace
ASK = "Reason step by step, then put the final answer within \\boxed{}."
GUIDE = (
    "You may replace a sentence of your reasoning by a silent step. Write {tag}, where N is a whole number from one to "
    "{most} and larger means harder, then continue as if the sentence were there. Use this for plain steps in the "
    "middle of your reasoning, not first or last."
)


@register_method("litereason", config=LiteReasonConfig, decoding=LiteReasonDecoding)
class LiteReason(Method[LiteReasonConfig]):
    """Question, text and latents in turn, answer."""

    def __init__(self, backbone: Backbone, config: LiteReasonConfig) -> None:
        super().__init__(backbone, config)
        self.check_room(config.max_budget, "method.max_budget")
        self.tags = Tags(
            backbone.tokenizer, config.tag, most=config.max_budget, spaced=config.spaced, name=backbone.name
        )
        self.heads["projector"] = Projector(backbone, config.blocks)
        self.own: TraceFile | None = None  # traces of the stage, where it learns from own ones
        self.asked: Sequence[Example] = ()  # the questions of rollouts

    @property
    def projector(self) -> Projector:
        """P."""
        found = self.heads["projector"]
        assert isinstance(found, Projector)
        return found

    # stages

    def stages(self) -> list[Stage]:
        """`tags`, if the model has to be taught them, trains all; `projector` trains the projector alone."""
        share = self.config.teach_share
        teach = [Stage(name=TEACH, share=share)] if share else []
        return [*teach, Stage(name=PROJECTOR, share=1 - share, trainable=("heads.",))]

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Draw own traces, where they are learnt from.

        Raises: ValueError: there is no task that scores them, or none is right.
        """
        self.own = None
        self.asked = examples if stage.rollouts else ()
        if stage.rollouts or self.config.traces == "gold":
            return
        if self.held_out is None:
            raise ValueError(
                "method.traces is own, but no task is at hand that says which answers are right; set it to gold"
            )
        self.own = TraceFile.collect(self, examples, self.held_out, folder, self.tags)

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """Latents and tags count like tokens; a chain without a sentence to replace is of no use."""
        pieces = self.pieces(example)
        if self.config.traces == "own":
            return self.backbone.beyond_context(len(pieces.prompt) + len(pieces.answer) + 1)
        num = len(choosable(example.steps, self.tags))
        if not num:
            return "no reasoning step to replace"
        added = self.tags.longest + self.config.max_budget
        return self.backbone.beyond_context(len(pieces) + added * num_replaced(num, max(self.config.replaced)))

    # masked traces

    def trace_of(self, example: Example, draw: float) -> tuple[str, Trace]:
        """A trace and what its draws are keyed by; of an example without an own one another's, at random."""
        if self.own is None:
            return example.id, example.steps
        traces = [(example.id, trace) for trace in self.own.kept.get(example.id, [])] or self.own.pool
        return traces[int(draw * len(traces))]

    def masked_examples(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with tags in place of some sentences of a trace, keyed by seed, pass and example."""
        keys = self.keys(examples)
        shares = uniform(keys, torch.zeros_like(keys), SHARE_DRAW, num=2).tolist()
        result = []
        for example, key, (share, which) in zip(examples, keys, shares, strict=True):
            _, trace = self.trace_of(example, which)
            ratio = self.config.replaced[int(share * len(self.config.replaced))]
            result.append(self.with_tags(example, trace, ratio, key))
        return result

    def with_tags(self, example: Example, trace: Sequence[str], ratio: float, key: Tensor) -> Example:
        """An example whose steps are a masked trace; key: scalar, of the draws."""
        draws = uniform(key[None], torch.zeros_like(key[None]), SENTENCE_DRAW, num=max(len(trace), 1))[0].tolist()
        steps = masked(trace, ratio, draws, self.tags, self.config.tokens_per_latent)
        return replace(example, steps=steps)

    def pieces(self, example: Example) -> Pieces:
        """Token ids of an example, whose question has the request for tags where the model is asked for them."""
        return self.backbone.layout.encode(replace(example, question=self.asking(example.question, self.request)))

    @property
    def request(self) -> str:
        """What a model without think tokens is asked."""
        if self.config.ask is not None:
            return self.config.ask
        tag = f"{self.tags.texts[0]}N{self.tags.texts[1]}"
        return f"{ASK} {GUIDE.format(tag=tag, most=self.config.max_budget)}"

    def asking(self, question: str, request: str) -> str:
        """See Method; a question that already tells of the tag is left as it is."""
        return question if self.tags.mention.search(question) else super().asking(question, request)

    def batch(self, examples: Sequence[Example], stage: Stage) -> Batch:
        """Whole sequences with a place for each latent."""
        return self.trace_batch(self.masked_examples(examples), teach=stage.name == TEACH)

    def trace_batch(self, examples: Sequence[Example], *, teach: bool = False) -> Batch:
        """Sequences of masked examples.

        Args:
            teach: all that follows the prompt is supervised; else what follows the first tag, or the last.
        """
        rows, labels, latent = [], [], []
        for example in examples:
            pieces = self.pieces(example)
            steps = self.tags.expanded(pieces.steps, PLACEHOLDER)
            ids = [*pieces.prompt, *steps.ids, *pieces.close, *pieces.answer, pieces.eos]
            is_latent = [False] * len(pieces.prompt) + steps.is_latent
            is_latent += [False] * (len(ids) - len(is_latent))
            assert steps.tag_ends, "a masked trace has a tag"
            after = 0 if teach else steps.tag_ends[0 if self.config.loss_from == "first" else -1]
            free = len(pieces.prompt) + after
            kept = [place >= free and not is_latent[place] for place in range(len(ids))]
            rows.append(ids)
            labels.append([token if keep else IGNORE_INDEX for token, keep in zip(ids, kept, strict=True)][1:])
            latent.append(is_latent)
        sequence, flags = pad(rows, labels), pad([[int(flag) for flag in row] for row in latent])
        ce, num_latents = int((sequence.labels != IGNORE_INDEX).sum()), int(flags.ids.sum())
        items = {"ce": ce, "projector/scale": num_latents}
        return Batch(num_items=items, sequence=sequence, is_latent=flags.ids.bool())

    # losses

    def loss(self, batch: Batch, stage: Stage) -> Losses:
        """Cross-entropy of what follows the tags, with gradients through the model to all latents before."""
        self.backbone.train(self.training and stage.name == TEACH)  # no dropout in what is frozen
        return self.continuation(batch)

    def continuation(self, batch: Batch) -> Losses:
        """Cross-entropy of the supervised text; the first token after a tag is predicted at its last latent."""
        sequence = batch.sequence
        latents = projected(self.backbone, self.projector, sequence, batch.is_latent)
        supervised = sequence.labels != IGNORE_INDEX
        embeds = fed_with(self.backbone.embed(sequence.ids), batch.is_latent, latents)
        logits = self.backbone.causal(embeds, sequence.positions, select=supervised).logits
        losses = Losses(ce=token_cross_entropy(logits, sequence.labels[supervised]))
        scale = relative_scale(self.backbone, latents).sum()
        losses["projector/scale"] = LossTerm(scale, len(latents), weight=0.0)
        return losses

    # reinforcement learning

    def rl_stage(self) -> Stage:
        """The model; the projector changes in refreshes alone."""
        return replace(super().rl_stage(), trainable=("backbone.",), changed=("heads.",))

    def rollout_rule(self, config: GenerateConfig) -> StepRule:
        """The rule of inference; with the latents, where updates feed those of the rollout."""
        record = self.config.latents == "drawn"
        return TagRule(self.backbone, self.tags, self.projector, config, record=record)

    def action_log_probs(self, batch: Batch) -> ActionLogProbs:
        """Of all sampled tokens, those of tags included; latents are constants made by the present weights."""
        if "latent" in batch.records:
            latents = batch.records["latent"]
        else:
            with torch.no_grad():
                latents = projected(self.backbone, self.projector, batch.sequence, batch.is_latent)
        embeds = fed_with(self.backbone.embed(batch.sequence.ids), batch.is_latent, latents)
        output = self.backbone.causal(embeds, batch.sequence.positions, select=batch.scored)
        return ActionLogProbs(*text_log_probs(output.logits, batch.actions.ids, batch.temperature))

    def before_rollout(self, number: int, config: RLConfig, folder: Path) -> None:
        """Refresh the projector where a pass over the questions has ended."""
        refresh.before_rollout(self, number, config, folder)

    def after_rollout(self, groups: Sequence[Group], number: int, folder: Path) -> None:
        """Keep the correct traces of a rollout for the next refresh."""
        if self.config.refresh_every != 0:
            refresh.keep(self, groups, number, folder)

    # inference

    def prompt_ids(self, question: str, config: GenerateConfig | None = None) -> list[int]:
        """The question; of a model without think tokens with the request to reason and to use tags."""
        return self.backbone.prompt(self.asking(question, self.request))

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
