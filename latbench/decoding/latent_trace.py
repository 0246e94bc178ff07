"""What each latent step mixed, kept apart from the records."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latbench.decoding.rule import Mixture, Step
from latbench.decoding.superposition import entropy, top_k_mixture


@dataclass
class LatentTrace:
    """The latent steps of one row.

    Args:
        ids: (latent, top_k) int32 and weights (latent, top_k) float32: largest entries of each step's distribution;
            for rules without one, the LM head's reading of the hidden state.
        entropy: (latent,) nats, of the LM head's whole distribution before the step.
        norm: (latent,) of the embedding fed.
        embeds: (latent, hidden).
        texts: of each step, where the method can read them (`Method.read_latents`).
    """

    ids: Tensor
    weights: Tensor
    entropy: Tensor
    norm: Tensor
    embeds: Tensor
    texts: list[str] | None = None


@dataclass
class LabelLatents:
    """What a helper model makes of one chain.

    Args:
        ids: (latent, top_k) entries by falling weight.
        weights: (latent, top_k) their weights.
        embeds: (latent, hidden) float32, the mixtures.
        cuts: (latent + 1,) bounds in the chain of the segments that the latents stand for. On the CPU.
    """

    ids: Tensor
    weights: Tensor
    embeds: Tensor
    cuts: list[int]


def largest(step: Step, logits: Tensor, rows: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a latent step mixed in some rows; the LM head's reading for rules without a mixture.

    Args:
        rows: (batch,) bool, or indices.
    Returns: ids (rows, top_k) int32, their weights by falling weight, and the entropy (rows,) in nats of the LM head's
        whole distribution.
    """
    if step.mixture is None:
        mixture = Mixture(*top_k_mixture(logits[rows], logits.shape[-1]))
    else:
        mixture = Mixture(step.mixture.ids[rows], step.mixture.weights[rows])
    weights, places = mixture.weights.float().topk(min(top_k, mixture.ids.shape[1]))
    return mixture.ids.gather(-1, places).int(), weights, entropy(logits[rows])


class TraceRecorder:
    """Collects latent steps of many rows, step by step, without a loop over rows.

    Args:
        top_k: entries kept per step.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self._rows: list[Tensor] = []
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, questions: Tensor, latent: Tensor, step: Step, logits: Tensor) -> None:
        """Note this step for the rows where `latent` ((batch,) bool) holds; questions: (batch,) whose rows they are."""
        embeds = step.embeds[latent].float()
        parts = (*largest(step, logits, latent, self.top_k), embeds.norm(dim=-1), embeds)
        self._rows.append(questions[latent].cpu())
        self._parts.append(tuple(part.cpu() for part in parts))

    def traces(self, num_questions: int) -> list[LatentTrace | None]:
        """One trace per question, in step order; None for a question without latent steps."""
        if not self._rows:
            return [None] * num_questions
        rows = torch.cat(self._rows)
        order = rows.argsort(stable=True)
        columns = [torch.cat(part)[order] for part in zip(*self._parts, strict=True)]
        counts = rows.bincount(minlength=num_questions).tolist()
        split = [column.split(counts) for column in columns]
        return [LatentTrace(*(part[i] for part in split)) if counts[i] else None for i in range(num_questions)]
