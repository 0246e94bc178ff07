"""The Reasoning Projector, and the latents that it makes in a sequence (arXiv:2512.02240)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from latbench.model.backbone import Backbone
from latbench.model.batches import Tokens
from latbench.model.cache import GrowingCache


class Projector(nn.Module):
    """Hidden state after the final norm -> next input embedding: a few MLPs one after another.

    No norm, no residual and no dropout inside or between them (Alex-Gurung/LiteReason@cf68f72
    litereason/reasoning_core.py, apply_projector_stack). Weights are kept in float32 at least, since small steps are
    lost in bfloat16.

    Args:
        backbone: whose last layer's MLP each block copies; a gated MLP of its own where none is found.
        blocks: how many MLPs.
    """

    def __init__(self, backbone: Backbone, blocks: int) -> None:
        super().__init__()
        source = last_mlp(backbone)
        if source is None:
            warnings.warn(
                f"no MLP is found in the last layer of {backbone.name}, so the projector starts from random weights",
                stacklevel=2,
            )
        self.blocks = nn.ModuleList(
            _GatedMLP(backbone.hidden_size) if source is None else _plain(copy.deepcopy(source)) for _ in range(blocks)
        )
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)

    def forward(self, hidden: Tensor) -> Tensor:
        """(items, hidden) -> (items, hidden)."""
        z = hidden.to(next(self.parameters()).dtype)
        for block in self.blocks:
            z = block(z)
        return z.to(hidden.dtype)


class _GatedMLP(nn.Module):
    """down(silu(gate x) * up x) of four times the width."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(size, 4 * size, bias=False), nn.Linear(size, 4 * size, bias=False)
        self.down = nn.Linear(4 * size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return z


def last_mlp(backbone: Backbone) -> nn.Module | None:
    """The MLP of the last layer, where it is one of linear maps alone (no mixture of experts)."""
    named = [module for name, module in backbone.model.named_modules() if name.rsplit(".", 1)[-1] == "mlp"]
    if not named:
        return None
    parts = _plain(copy.deepcopy(named[-1])).modules()
    linear = [part for part in parts if any(True for _ in part.parameters(recurse=False))]
    return named[-1] if all(isinstance(part, nn.Linear | Conv1D) for part in linear) else None


def _plain(module: nn.Module) -> nn.Module:
    """The module without adapters and dropout."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Dropout):
            setattr(module, name, nn.Identity())
        elif hasattr(child, "base_layer"):
            setattr(module, name, child.base_layer)
        else:
            _plain(child)
    return module


def projected(backbone: Backbone, projector: Projector, sequence: Tokens, is_latent: Tensor) -> Tensor:
    """The latents of whole sequences, each made from what precedes it, with gradients where they are on.

        e_1 = P(h(last tag token)),  e_{j+1} = P(h(e_j))

    All rows go forward together, through one cache that keeps the graph: at each turn every row reads its text up to
    the next latent, and takes it.

    Args:
        sequence: right-padded, a placeholder where a latent belongs.
        is_latent: (batch, seq) bool; never at a beginning.
    Returns: (latents, hidden) in row-major order of `is_latent`.
    """
    embeds = backbone.embed(sequence.ids)
    batch, seq = sequence.ids.shape
    rows, places = (torch.arange(num, device=embeds.device) for num in (batch, seq))
    at = torch.zeros_like(rows)  # where each row goes on reading; no latent is at a beginning
    fed = torch.zeros_like(embeds[:, 0])  # the latent there, if it is one
    cache = GrowingCache()
    made, made_at = list[Tensor](), list[Tensor]()
    while (ahead := is_latent & (places > at[:, None])).any():
        goes = ahead.any(1)
        until = torch.where(goes, ahead.int().argmax(1), at)
        index = at[:, None] + torch.arange(int((until - at).max()), device=embeds.device)
        valid = index < until[:, None]
        index = index.clamp(max=seq - 1)
        piece = embeds[rows[:, None], index]
        first = torch.where(is_latent[rows, at][:, None], fed, piece[:, 0])
        piece = torch.cat([first[:, None], piece[:, 1:]], dim=1)
        last = valid & (index == until[:, None] - 1)
        z = projector(backbone.advance(cache, piece, index, valid, select=last).hidden[0]).to(embeds.dtype)
        made.append(z)
        made_at.append((rows * seq + until)[goes])
        fed = fed.index_put((rows[goes],), z)
        at = until
    return torch.cat(made)[torch.cat(made_at).argsort()] if made else embeds.new_zeros(0, embeds.shape[-1])


def fed_with(embeds: Tensor, is_latent: Tensor, latents: Tensor) -> Tensor:
    """(batch, seq, hidden) input embeddings with latents in their places."""
    return embeds.masked_scatter(is_latent[..., None], latents.to(embeds.dtype))


def relative_scale(backbone: Backbone, latents: Tensor) -> Tensor:
    """|e| over the mean norm of an input embedding: (latents,). Far from 1 the copied MLPs fit badly."""
    with torch.no_grad():
        rows: Any = backbone.model.get_input_embeddings().weight
        mean: Tensor = rows.float().norm(dim=-1).mean()
        norms: Tensor = latents.detach().float().norm(dim=-1)
        return norms / mean
