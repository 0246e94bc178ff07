"""The two masks of stage 1 (arXiv:2510.15522v2: LTIM and LTSuM), as rules between tokens with known roles."""

from __future__ import annotations

from torch import Tensor

from latbench.model.attention import SequenceMask
from methods.latent_sft.sequences import Role, RoleTokens


class InductionMask(SequenceMask):
    """Latent token induction mask (LTIM) of the encoder.

    Causal, and a compress slot is seen by nobody but itself: L_i condenses Q, <t>, S_1 .. S_i on its own.
    """

    def __init__(self, tokens: RoleTokens) -> None:
        super().__init__(tokens.mask)
        self.is_latent = tokens.is_latent

    def attends(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """See SequenceMask."""
        return (key <= query) & (~self.is_latent[row, key] | (key == query))


class SupervisionMask(SequenceMask):
    """Latent token supervision mask (LTSuM) of the decoder.

    A segment is a dead-end side branch of its latent: it sees itself and that latent alone, and nothing else sees it.
    Question, latents, close marker and answer are plain causal among themselves, as if there were no segments.
    """

    def __init__(self, tokens: RoleTokens) -> None:
        super().__init__(tokens.mask)
        self.is_segment = tokens.roles == Role.SEGMENT
        self.is_latent = tokens.is_latent
        self.slots = tokens.slots

    def attends(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """See SequenceMask."""
        key_is_segment = self.is_segment[row, key]
        own = (self.slots[row, key] == self.slots[row, query]) & (key_is_segment | self.is_latent[row, key])
        return (key <= query) & ((self.is_segment[row, query] & own) | (~self.is_segment[row, query] & ~key_is_segment))
