"""iCoT: stepwise internalisation of the chain of thought (Deng, Choi and Shieber, arXiv:2405.14838, section 3).

Training starts with the whole chain and removes its tokens from the left, s of them at stage s, until none is left:
what they did has moved into the layers. Each sequence loses o >= 0 tokens more than s, drawn with a probability
proportional to exp(-lambda o) (removal smoothing). Past S_max tokens the whole chain goes at once. Positions are those
of the shortened sequence; the optimiser starts anew at every removal, which is what a stage does here.

The chain stands between `<think>` and `</think>`, which play the part of the paper's two separators (plain EOS there):
the close marker is never removed and stays supervised, so the internalised model writes it at once and #L is 0.

Differs from the paper: a stage is a share of `train.epochs` with a data order and a learning-rate schedule of its own;
there the removals, Delta tokens per epoch, fall inside running epochs. With `tokens_per_stage` 1 the same pace is
`removal_share` = S_max / (Delta * epochs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from latbench.config import Fraction, GenerateConfig, Positive, PositiveFloat
from latbench.decoding.rule import StepRule
from latbench.decoding.sampling import Sampling, uniform
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.model.batches import SequenceBatch, sequence_batch
from latbench.model.layout import Pieces
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy

NUM_OFFSETS = 100  # o is 0 ... 99; the last one has the mass of all beyond


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class IcotConfig(MethodConfig):
    """The removal schedule; the defaults are the paper's for GSM8K, with a tenth of the training spent on it."""

    max_removed: Positive = 39
    """S_max, removed tokens from which on the whole chain is removed."""
    tokens_per_stage: Positive = 1
    """Further tokens that a stage removes; more of them make fewer stages, where the budget is short."""
    removal_share: Annotated[Fraction, Field(gt=0, lt=1)] = 0.1
    """Share of train.epochs, spread evenly over the stages that remove a part; the rest is trained without a chain."""
    smoothing: PositiveFloat | None = 4.0
    """lambda of removal smoothing; null: every sequence loses exactly the stage's number of tokens."""
    side: Literal["left", "right"] = "left"
    """End of the chain at which tokens are removed."""
    max_tokens: Positive | None = None
    """Skip longer sequences, in tokens with the whole chain; null: the model's context decides."""


@register_method("icot", config=IcotConfig)
class Icot(Method[IcotConfig, SequenceBatch]):
    """Chain-of-thought training on ever shorter chains."""

    def stages(self) -> list[Stage]:
        """`remove<s>` for s = 0, 1, 2 ... in steps of `tokens_per_stage` below S_max, then `final`."""
        removed = range(0, self.config.max_removed, self.config.tokens_per_stage)
        share = self.config.removal_share / len(removed)
        removing = [Stage(name=f"remove{s}", index=s, share=share) for s in removed]
        return [*removing, Stage(name="final", index=self.config.max_removed, share=1 - self.config.removal_share)]

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Refuse data without a chain to remove."""
        if not any(example.steps for example in examples):
            raise ValueError(
                f"method {self.name!r} removes the tokens of a chain, but none of {len(examples)} examples has one; "
                "use other data, or method 'direct'"
            )

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """The same examples in every stage: the whole chain counts even where it is removed."""
        if self.config.max_tokens is not None and len(self.backbone.layout.encode(example)) > self.config.max_tokens:
            return "longer than method.max_tokens"
        return self.backbone.too_long(example)

    def batch(self, examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        """Sequences without s + o tokens of their chains; the rest of the chain, close marker, answer and EOS are
        supervised."""
        keys = self.keys(examples)
        offsets = removal_offsets(keys, self.config.smoothing or inf).tolist()
        pieces = []
        for example, offset in zip(examples, offsets, strict=True):
            whole = self.backbone.layout.encode(example)
            is_final = stage.index >= self.config.max_removed
            num_removed = len(whole.steps) if is_final else stage.index + offset
            pieces.append(without_tokens(whole, num_removed, self.config.side))
        return sequence_batch(pieces, supervise="steps")

    def loss(self, batch: SequenceBatch, stage: Stage) -> Losses:
        """Next-token cross-entropy."""
        return Losses(ce=token_cross_entropy(*self.backbone.logits_at_labels(batch.tokens)))

    def rule(self, config: GenerateConfig) -> StepRule:
        """Plain text: what the model still writes of its chain, the close marker, the answer."""
        return StepRule(self.backbone, Sampling.from_config(config))


def removal_offsets(keys: Tensor, smoothing: float) -> Tensor:
    """Keyed draws of o with P(o) = (1 - exp(-lambda)) exp(-lambda o), the mass beyond the last on the last.

    Args:
        keys: (batch,) from `row_keys`.
        smoothing: lambda, where infinity makes o 0.
    Returns: (batch,) int64.
    """
    exceeded = -uniform(keys, torch.zeros_like(keys)).log() / smoothing  # P(o >= k) = P(u <= exp(-lambda k))
    return exceeded.floor().clamp(max=NUM_OFFSETS - 1).long()


def without_tokens(pieces: Pieces, num_removed: int, side: Literal["left", "right"]) -> Pieces:
    """The pieces without that many tokens of the chain, or without the chain where it is shorter."""
    num_kept = max(len(pieces.steps) - num_removed, 0)
    kept = pieces.steps[len(pieces.steps) - num_kept :] if side == "left" else pieces.steps[:num_kept]
    return replace(pieces, steps=kept)
