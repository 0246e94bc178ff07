"""Pause tokens: room to compute before the answer (Goyal et al., arXiv:2310.02226, section 3).

M copies of one learned vector stand between the question and the answer. They carry no information, but the layers may
work at their positions; only the answer is supervised. This is the fine-tuned baseline of Coconut (Hao et al.,
arXiv:2412.06769, Table 1), with as many pauses as that method has latents. The chain is not trained on.

The markers stand around the pauses: question, `<think>`, M pauses, `</think>`, answer; the close marker is forced, so
the answer's first token is predicted from it (where the paper has no marker, from the last pause). All inputs are known
beforehand, so training is one pass; decoding takes the pauses one by one as latent steps, which gives the same states.

Differs from the papers: no pause pre-training (Goyal et al. find clear gains only with it); the pause is a vector of
its own instead of a row of the token table, so the model cannot write one. #L is M; Coconut's table counts no pauses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from latbench.config import GenerateConfig, Positive
from latbench.decoding.rule import StepRule
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, Batch, Tokens, sequence_batch
from latbench.model.layout import Pieces
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy

INITIAL = "<<"  # the pause starts as this token, as Coconut's new tokens do


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class PauseConfig(MethodConfig):
    """How long the pause is."""

    num_pauses: Positive = 6  # M


def pause_embedding(backbone: Backbone) -> nn.Embedding:
    """A learned vector, (1, hidden): at first the row of `<<`."""
    # one token in GPT-2, Llama 3, Qwen and the embedded tokenizer; the mean row of its parts where it is several
    ids = backbone.tokenizer.encode(INITIAL, add_special_tokens=False)
    with torch.no_grad():
        start = backbone.embed(torch.tensor(ids, device=backbone.device)).mean(0)
    made: nn.Embedding = nn.Embedding.from_pretrained(start[None], freeze=False)
    return made


@dataclass(kw_only=True)
class PauseBatch(Batch):
    """Whole sequences with pauses for a chain.

    Args:
        sequence: answer and EOS are supervised.
        is_pause: (batch, seq) bool.
    """

    sequence: Tokens
    is_pause: Tensor


@register_method("pause", config=PauseConfig)
class Pause(Method[PauseConfig, PauseBatch]):
    """Question, M pauses, answer."""

    def __init__(self, backbone: Backbone, config: PauseConfig) -> None:
        super().__init__(backbone, config)
        self.check_room(config.num_pauses, "method.num_pauses")
        self.heads["pause"] = pause_embedding(backbone)

    @property
    def pause(self) -> Tensor:
        """The learned input embedding, (hidden)."""
        return cast(nn.Embedding, self.heads["pause"]).weight[0]

    def stages(self) -> list[Stage]:
        """One."""
        return [Stage(name="sft")]

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """The pauses count instead of the chain."""
        return self.backbone.beyond_context(len(self._pieces(example)))

    def batch(self, examples: Sequence[Example], stage: Stage) -> PauseBatch:
        """Whole sequences; answer and EOS are supervised."""
        pieces = [self._pieces(example) for example in examples]
        inner = sequence_batch(pieces, supervise="answer")
        start = torch.tensor([[len(piece.prompt)] for piece in pieces])
        positions = inner.tokens.positions
        is_pause = (positions >= start) & (positions < start + self.config.num_pauses)
        return PauseBatch(num_items=inner.num_items, sequence=inner.tokens, is_pause=is_pause)

    def loss(self, batch: PauseBatch, stage: Stage) -> Losses:
        """Next-token cross-entropy, in one pass."""
        tokens = batch.sequence
        embeds = torch.where(batch.is_pause[..., None], self.pause, self.backbone.embed(tokens.ids))
        supervised = tokens.labels != IGNORE_INDEX
        output = self.backbone.causal(embeds, tokens.positions, select=supervised)
        return Losses(ce=token_cross_entropy(output.logits, tokens.labels[supervised]))

    def rule(self, config: GenerateConfig) -> StepRule:
        """M latent steps that all feed the pause."""
        return self.fixed_rule(self.config.num_pauses, config, lambda hidden: self.pause.expand_as(hidden))

    def _pieces(self, example: Example) -> Pieces:
        """The example with M placeholders, whose id is not read, for its chain."""
        layout = self.backbone.layout
        return replace(layout.encode(example), steps=(layout.eos,) * self.config.num_pauses)
