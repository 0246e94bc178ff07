"""Scores to a mixture over the vocabulary, noise on it, and how mixed a distribution is."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k_mixture(logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Softmax restricted to the k largest scores (Latent-SFT, arXiv:2510.15522v2, latent vocabulary).

    Args:
        logits: (..., vocab).
        k: entries kept, all of them where k >= vocab.
        temperature: divides the kept scores.
    Returns: ids (..., k) by falling weight, and weights (..., k) float32 that sum to one.
    """
    scores, ids = torch.topk(logits.float(), min(k, logits.shape[-1]))
    return ids, (scores / temperature).softmax(-1)


def mixture(
    scores: Tensor, k: int | None, *, temperature: float = 1.0, target_entropy: float | None = None
) -> tuple[Tensor | None, Tensor]:
    """`top_k_mixture`, or the softmax over the whole vocabulary where k is None or reaches it: then without ids.

    Args:
        target_entropy: nats; the temperature is found for each row instead (`temperature_of_entropy`).
    """
    ids, kept = None, scores.float()
    if k is not None and k < scores.shape[-1]:
        kept, ids = torch.topk(kept, k)
    divisor = temperature if target_entropy is None else temperature_of_entropy(kept, target_entropy)
    return ids, (kept / divisor).softmax(-1)


def temperature_of_entropy(scores: Tensor, target: float) -> Tensor:
    """The temperature at which the softmax of scores has a given entropy, whatever the scale of the scores.

    Args:
        scores: (..., k), not all equal.
        target: entropy in nats, below log k.
    Returns: (..., 1), by bisection to a relative 1e-3; a constant, without gradient.
    """
    scores = scores.detach().float()
    spread = (scores.amax(-1, keepdim=True) - scores.mean(-1, keepdim=True)).clamp(min=1e-6).log()
    low, high = spread - 7, spread + 7
    for _ in range(14):  # 14 e-folds, halved 14 times
        middle = (low + high) / 2
        too_flat = entropy(scores / middle.exp())[..., None] > target
        low, high = torch.where(too_flat, low, middle), torch.where(too_flat, middle, high)
    return ((low + high) / 2).exp()


def with_gumbel(
    weights: Tensor, noise: Tensor, *, scale: float, temperature: float = 1.0, clamp: tuple[float, float] = (-1.5, 3.0)
) -> Tensor:
    """A mixture re-weighted by noise on its log-probabilities (Latent-SFT, stage 2); its support stays.

    Args:
        weights: (..., top_k), summing to one.
        noise: of that shape, standard Gumbel.
        scale: factor on the noise before it is clamped; 0 leaves the weights (at temperature 1).
        temperature: divides the noisy log-probabilities.
    Returns: (..., top_k) float32, summing to one.
    """
    noisy = (weights.float() + 1e-10).log() + (scale * noise).clamp(*clamp)
    return (noisy / temperature).softmax(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the whole softmax: (..., vocab) -> (...); exp of it is the effective number of entries."""
    log_probabilities = logits.float().log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
