"""The encoder of stage 1: a copy of the backbone that condenses each segment of the chain into one hidden state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from latbench.model.attention import CausalMask
from latbench.model.backbone import Backbone
from methods.latent_sft.masks import InductionMask
from methods.latent_sft.sequences import RoleTokens


class Encoder(nn.Module):
    """Initialised from the decoder's model, with one embedding more: that of the compress slot.

    Differs from the released code: there the slot is a new row of the token table, learnt through LoRA on the whole
    table; here it is a vector of its own, learnt as it is.

    Args:
        backbone: copied; tokenizer and layout are shared.
        induction_mask: LTIM; False puts a plain causal mask in its place (the ablation "w/o LTIM").
    """

    def __init__(self, backbone: Backbone, *, induction_mask: bool = True) -> None:
        super().__init__()
        shared = {id(part): part for part in (backbone.tokenizer, backbone.layout)}
        self.backbone: Backbone = copy.deepcopy(backbone, shared)
        table = backbone.model.get_input_embeddings().weight
        with torch.no_grad():
            every = torch.arange(len(backbone.tokenizer), device=table.device)
            self.slot = nn.Parameter(backbone.embed(every).float().mean(0).to(table.dtype))
        self.induction_mask = induction_mask

    def forward(self, tokens: RoleTokens) -> Tensor:
        """Hidden state after the final norm at every compress slot, in row-major order: (latents, hidden)."""
        slots = tokens.is_latent
        embeds = torch.where(slots[..., None], self.slot, self.backbone.embed(tokens.ids))
        mask = InductionMask(tokens) if self.induction_mask else CausalMask(tokens.mask)
        return self.backbone.states(embeds, tokens.positions, mask)[slots]
