"""Sequences of text and latents: masked traces as batches, and the loss of what follows the tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latbench.decoding.sampling import uniform
from latbench.method import REASON, Losses, LossTerm, Method
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, Batch, Tokens, pad
from latbench.model.layout import Pieces
from latbench.task import Example
from latbench.training.losses import token_cross_entropy
from methods.litereason.config import LiteReasonConfig
from methods.litereason.projector import Projector, fed_with, projected, relative_scale
from methods.litereason.tags import Tags
from methods.litereason.traces import Trace, TraceFile, choosable, masked, num_replaced

PLACEHOLDER = 0  # id of a latent in a sequence
SHARE_DRAW, SENTENCE_DRAW = 0, 1  # draws of a masked trace
GUIDE = (
    "You may replace a sentence of your reasoning by a silent step. Write {tag}, where N is a whole number from one to "
    "{most} and larger means harder, then continue as if the sentence were there. Use this for plain steps in the "
    "middle of your reasoning, not first or last."
)


@dataclass(kw_only=True)
class TaggedBatch(Batch):
    """Masked traces, each with its question and answer.

    Args:
        sequence: a placeholder id where a latent is; a label is the id that follows.
        is_latent: (batch, seq) bool.
    """

    sequence: Tokens
    is_latent: Tensor


class TaggedModel(Method[LiteReasonConfig, TaggedBatch]):
    """A model with tags and a projector."""

    def __init__(self, backbone: Backbone, config: LiteReasonConfig) -> None:
        super().__init__(backbone, config)
        self.check_room(config.max_budget, "method.max_budget")
        self.tags = Tags(
            backbone.tokenizer, config.tag, most=config.max_budget, spaced=config.spaced, name=backbone.name
        )
        self.heads["projector"] = Projector(backbone, config.blocks)
        self.own: TraceFile | None = None  # traces of the stage, where it learns from own ones
        self.asked: Sequence[Example] = ()  # the questions of rollouts
        self.passes = 0  # over them, before the rollout in use

    @property
    def projector(self) -> Projector:
        """P."""
        found = self.heads["projector"]
        assert isinstance(found, Projector)
        return found

    # masked traces

    def trace_of(self, example: Example, draw: float) -> tuple[Example, Trace]:
        """An example with a trace of it, at random; one without an own trace gives its turn to any that has one."""
        if self.own is None:
            return example, example.steps
        traces = [(example, trace) for trace in self.own.kept.get(example.id, [])] or self.own.pool
        return traces[int(draw * len(traces))]

    def masked_examples(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with tags in place of some sentences of a trace, keyed by seed, pass and example."""
        keys = self.keys(examples)
        shares = uniform(keys, torch.zeros_like(keys), SHARE_DRAW, num=2).tolist()
        result = []
        for example, key, (share, which) in zip(examples, keys, shares, strict=True):
            owner, trace = self.trace_of(example, which)
            ratio = self.config.replaced[int(share * len(self.config.replaced))]
            result.append(self.with_tags(owner, trace, ratio, key))
        return result

    def with_tags(self, example: Example, trace: Sequence[str], ratio: float, key: Tensor) -> Example:
        """An example whose steps are a masked trace.

        Args:
            key: scalar, of the random draws.
        """
        draws = uniform(key[None], torch.zeros_like(key[None]), SENTENCE_DRAW, num=max(len(trace), 1))[0].tolist()
        steps = masked(trace, ratio, draws, self.tags, self.config.tokens_per_latent)
        return replace(example, steps=steps)

    def pieces(self, example: Example) -> Pieces:
        """Token ids of an example, whose question has the requests of a model without think tokens."""
        return self.backbone.layout.encode(self.as_asked(example))

    def request(self, question: str) -> str:
        """To reason, and the guide to tags where the question does not mention them."""
        wanted = [REASON if self.config.ask is None else self.config.ask]
        if self.config.guide and not self.tags.mention.search(question):
            tag = f"{self.tags.texts[0]}N{self.tags.texts[1]}"
            wanted.append(GUIDE.format(tag=tag, most=self.config.max_budget))
        return " ".join(filter(None, wanted))

    def beyond_context(self, example: Example) -> str | None:
        """Why an example does not fit the context when its sentences are replaced, in the worst case, or None."""
        num = num_replaced(len(choosable(example.steps, self.tags)), max(self.config.replaced))
        added = self.tags.longest + self.config.max_budget
        return self.backbone.beyond_context(len(self.pieces(example)) + added * num)

    def trace_batch(self, examples: Sequence[Example], *, teach: bool = False) -> TaggedBatch:
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
        return TaggedBatch(num_items=items, sequence=sequence, is_latent=flags.ids.bool())

    def continuation(self, batch: TaggedBatch) -> Losses:
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
