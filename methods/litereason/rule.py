"""The rule of LiteReason: text, and after each tag in the reasoning as many latent steps as it asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.rule import LatentAction, Mode, RowState, Step, StepRule
from latbench.decoding.sampling import Sampling
from latbench.model.backbone import Backbone
from methods.litereason.config import LiteReasonDecoding
from methods.litereason.projector import Projector
from methods.litereason.tags import Tags


class TagRule(StepRule):
    """Sampled tokens; a row whose last ids are a tag takes its latent steps, then samples again, any number of times.

    A tag is complete once its last token has been fed, since the first latent is made from the hidden state there. In
    the answer segment of a layout with a close marker tags are text. At the cap of latent steps the loop closes a row's
    reasoning, which ends its tag.

    In `rows.memory`: the ids fed last plus 1, 0 for a latent; what the last decision was (a token's id plus 1, -1 a
    latent); the number of decisions after it, since a decision for a row that has forced ids to feed is not taken; and
    the latent steps still to take.

    Args:
        tags: finds the tags of the method.
        projector: makes the latents.
        config: sampling of text, and LiteReasonDecoding.
        record: leave each latent in `Step.latent`, for updates that feed it again.
    """

    def __init__(
        self, backbone: Backbone, tags: Tags, projector: Projector, config: GenerateConfig, *, record: bool = False
    ) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.tags, self.projector, self.record = tags, projector, record
        self.latents = config.own(LiteReasonDecoding).latents
        self.last_ids = torch.tensor(tags.last_ids, device=backbone.device) + 1

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See StepRule."""
        left = self._left(rows)
        latent = left > 0
        thinks = bool(latent.any())
        text = super().step(hidden, logits, rows)
        rows.memory["decided"] = torch.where(latent, -1, text.token + 1)
        rows.memory["decisions"] = rows.steps + 1
        if not thinks:
            if rows.thinking:
                text.mode = torch.full_like(rows.mode, Mode.TEXT)
            return text
        z = self.projector(hidden) if self.latents == "projected" else torch.zeros_like(hidden)
        return Step(
            torch.where(latent[:, None], z.to(text.embeds.dtype), text.embeds),
            torch.where(latent, Mode.LATENT, Mode.TEXT),
            torch.where(latent, -1, text.token),
            latent=LatentAction({"latent": z}) if self.record else None,
        )

    def _left(self, rows: RowState) -> Tensor:
        """(batch,) latent steps that each row still has to take, the coming one among them."""
        memory = rows.memory
        if not memory:
            zeros = torch.zeros_like(rows.steps)
            memory |= {name: zeros.clone() for name in ("decided", "decisions", "left")}
            memory["recent"] = zeros[:, None].repeat(1, self.tags.longest)
        taken = memory["decisions"] == rows.steps
        was_latent = taken & (memory["decided"] < 0)
        fed = memory["decided"].clamp(min=0)
        recent = torch.cat([memory["recent"][:, 1:], fed[:, None]], dim=1)
        recent = memory["recent"] = torch.where(taken[:, None], recent, memory["recent"])
        left = memory["left"] - was_latent.long()
        left = torch.where(was_latent & (rows.mode == Mode.TEXT), 0, left)  # the loop has closed at the cap
        complete = taken & ~was_latent & torch.isin(recent[:, -1], self.last_ids)
        if self.backbone.layout.close:
            complete &= ~rows.in_answer
        if complete.any():
            left = self._begun(complete, left, rows)
        memory["left"] = left
        return left

    def _begun(self, complete: Tensor, left: Tensor, rows: RowState) -> Tensor:
        """Steps left, where those rows ((batch,) bool) that end with a tag begin it."""
        left = left.clone()
        for row in complete.nonzero()[:, 0].tolist():
            tag = self.tags.at_end([token - 1 for token in rows.memory["recent"][row].tolist()])
            if tag is not None:
                left[row] = 0 if self.latents == "none" else self.tags.steps(tag)
                rows.num_marks[row] += tag.end - tag.start
        return left
