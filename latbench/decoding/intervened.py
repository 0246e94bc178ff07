"""A latent rule under intervention: other embeddings at its latent steps, or another number of them.

What a model answers then says how far it relies on its latents. Replacements are made
from the vectors of the untouched run, so that none depends on what an earlier replacement did to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from latbench.decoding.rule import Latent, LatentRule, RowState
from latbench.decoding.sampling import normal

NOISE_DRAW = 4  # draw of a step; those of the methods' own noise come before


class Intervened(LatentRule):
    """A latent rule whose number of steps is given for each question, and what it feeds, if so wished.

    Text is sampled as the rule does. At the given number the close marker is forced, whatever the rule would do.

    Args:
        rule: of the method, untouched.
        num_latents: steps of each prompt, in order of the prompts; `generate.max_latents` still is a cap.
        latents: (num_latents, hidden) to feed, for each prompt; None: what the rule feeds.
    """

    def __init__(self, rule: LatentRule, num_latents: Sequence[int], latents: Sequence[Tensor] | None = None) -> None:
        super().__init__(rule.backbone, rule.sampling)
        self.rule, device = rule, rule.backbone.device
        self.num_latents = torch.tensor(num_latents, dtype=torch.long, device=device)
        self.latents: Tensor | None = None
        if latents is not None:
            assert [len(row) for row in latents] == list(num_latents), "one embedding for each step"
            taken = [row.to(device) for row in latents if len(row)]
            self.latents = torch.cat([*taken, torch.zeros(1, rule.backbone.hidden_size, device=device)])  # never empty
            self.first = torch.tensor([0, *accumulate(num_latents)], dtype=torch.long, device=device)

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule."""
        stop = rows.num_latents >= self.num_latents[rows.question]
        if self.latents is None:
            own = self.rule.latent(hidden, logits, rows)
            return Latent(own.embeds, stop, own.mixture)
        place = (self.first[rows.question] + rows.num_latents).clamp(max=len(self.latents) - 1)
        return Latent(self.latents[place].to(hidden.dtype), stop)


def zeros(latents: Tensor) -> Tensor:
    """Zero vectors in place of these: (latent, hidden)."""
    return torch.zeros_like(latents)


def matched_noise(latents: Tensor, key: Tensor) -> Tensor:
    """Gaussian vectors, each with mean and deviation of the one it replaces, exactly, hence with its norm.

    Args:
        latents: (latent, hidden).
        key: scalar, of the row's random draws (`sampling.row_keys`).
    Returns: (latent, hidden).
    """
    num, size = latents.shape
    noise = normal(key.expand(num), torch.arange(num), NOISE_DRAW, size)
    noise = noise - noise.mean(-1, keepdim=True)
    noise = noise / noise.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
    mean = latents.mean(-1, keepdim=True)
    return mean + noise * (latents - mean).square().mean(-1, keepdim=True).sqrt()


def fitted(latents: Tensor, num: int) -> Tensor:
    """So many of another answer's latents: cut, or begun again where they do not suffice.

    Args:
        latents: (latent, hidden), not empty unless num is 0.
    Returns: (num, hidden).
    """
    return latents[torch.arange(num) % max(len(latents), 1)]
