"""Stage 1 of Latent-SFT: an encoder condenses a chain into latents, the decoder unfolds them again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from latbench.config import GenerateConfig
from latbench.decoding.rule import LatentRule
from latbench.decoding.superposition import mixture
from latbench.method import Method
from latbench.model.attention import CausalMask
from latbench.model.backbone import Output
from latbench.model.batches import Batch, Movable
from latbench.model.layout import Pieces
from methods.latent_sft.config import LatentSFTConfig
from methods.latent_sft.encoder import Encoder
from methods.latent_sft.masks import SupervisionMask
from methods.latent_sft.sequences import RoleTokens, decoder_tokens


@dataclass
class Latents(Movable):
    """Latents of a batch, row by row.

    Args:
        embeds: (latents, hidden); of stored mixtures empty, since they are mixed with the model's own table.
        ids: (latents, top_k) of a superposition, None for the whole vocabulary.
        weights: of that shape, summing to one, None in hidden space.
    """

    embeds: Tensor
    ids: Tensor | None = None
    weights: Tensor | None = None


@dataclass(kw_only=True)
class Stage1Batch(Batch):
    """Whole chains with their latent slots.

    Args:
        encoder: question, chain and compress slots.
        decoder: question, latents, their segments, close marker and answer.
        shares: (supervised tokens,) part of an item that each is; None: each is one.
    """

    encoder: RoleTokens
    decoder: RoleTokens
    shares: Tensor | None


@dataclass(kw_only=True)
class Stage2Batch(Batch):
    """Compressed sequences.

    Args:
        sequence: question, latents, close marker and answer.
        latents: what is fed and learnt at each latent, row by row.
        shares: (latents,) part of its row that each is.
        turns: factors of the losses on latents and on text in this optimiser step.
    """

    sequence: RoleTokens
    latents: Latents
    shares: Tensor
    turns: tuple[float, float]


class Condenser(Method[LatentSFTConfig, Stage1Batch | Stage2Batch]):
    """The encoder, and the decoder that reads what it makes: what labels and diagnostics ask of the method."""

    @abstractmethod
    def rule(self, config: GenerateConfig) -> LatentRule:
        """The rule for the next input at inference."""

    def build_auxiliary(self) -> None:
        """The encoder starts as a copy of the backbone."""
        self.auxiliary["encoder"] = Encoder(self.backbone, induction_mask=self.config.induction_mask)

    @property
    def encoder(self) -> Encoder:
        """The helper model of stage 1."""
        return cast(Encoder, self.auxiliary["encoder"])

    def latents(self, tokens: RoleTokens) -> Latents:
        """z_i of every compress slot, row by row."""
        states = self.encoder(tokens)
        if self.config.latent_space == "hidden":
            return Latents(states)
        ids, weights = mixture(
            self._scores(states),
            self.config.top_k,
            temperature=self.config.temperature,
            target_entropy=self.config.target_entropy,
        )
        return Latents(self.backbone.mix(ids, weights), ids, weights)

    def _scores(self, states: Tensor) -> Tensor:
        """(latents, vocab) scores of the encoder's states by the decoder's table, which gets no gradient."""
        model = self.backbone.model
        module = model.get_input_embeddings() if self.config.scores == "embedding" else model.get_output_embeddings()
        table = module.weight.detach()
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 is too coarse for scores of tens
            return functional.linear(states.to(table.dtype), table)

    def decoder_tokens(self, pieces: Sequence[Pieces]) -> RoleTokens:
        """The decoder's input; without LTSuM its positions count every token, as any causal sequence's."""
        two_track = self.config.supervision_mask and self.config.positions == "two_track"
        return decoder_tokens(pieces, self.config.tokens_per_latent, two_track=two_track)

    def decode_latents(self, tokens: RoleTokens, latents: Tensor, select: Tensor) -> Tensor:
        """The decoder's logits where `select` ((batch, seq) bool) holds: (items, vocab)."""
        mask = SupervisionMask(tokens) if self.config.supervision_mask else CausalMask(tokens.mask)
        output: Output = self.backbone(self.embeds(tokens, latents), tokens.positions, mask, select=select)
        return output.logits[0]

    def embeds(self, tokens: RoleTokens, latents: Tensor) -> Tensor:
        """(batch, seq, hidden) input embeddings with the latents ((latents, hidden), row by row) in their places."""
        embeds = self.backbone.embed(tokens.ids)
        return embeds.masked_scatter(tokens.is_latent[..., None], latents.to(embeds.dtype))
