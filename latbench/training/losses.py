"""Losses that methods share; each is a sum over its items with their number (see `LossTerm`).

Every loss of every method is a mean over the items (tokens, latents or rows) of the whole optimiser step: sums are
divided by the items of all its micro-batches and processes, so that neither accumulation nor the number of GPUs changes
the objective. The released codes of the methods average the means of their micro-batches instead, which weighs a token
by how few others its micro-batch has; with one micro-batch per step the two are one. A statistic over the rows of a
batch (CODI's deviation, see `Method.batch_terms`) is still one of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from latbench.method import LossTerm
from latbench.model.batches import IGNORE_INDEX


def token_cross_entropy(
    logits: Tensor, labels: Tensor, *, shares: Tensor | None = None, weight: float = 1.0
) -> LossTerm:
    """Cross-entropy of the supervised tokens, in float32 or wider, summed.

    Args:
        logits: (..., vocab), in nats before the softmax; labels: (...) target ids, already shifted, or IGNORE_INDEX.
        shares: (...) share of an item that each token has, such as one over the tokens of its segment; None: a token
            is an item.
        weight: factor in the objective.
    """
    wide = _wide(logits).flatten(0, -2)
    if shares is None:
        total = cross_entropy(wide, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        return LossTerm(total=total, num_items=int((labels != IGNORE_INDEX).sum()), weight=weight)
    each = cross_entropy(wide, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return LossTerm(total=(each * shares.flatten()).sum(), num_items=round(float(shares.sum())), weight=weight)


def soft_label_kl(logits: Tensor, ids: Tensor | None, probabilities: Tensor) -> Tensor:
    """KL(teacher || student) on the teacher's support, in float32 or wider (Latent-SFT, arXiv:2510.15522v2, stage 2).

    Args:
        logits: (items, vocab), the student's, over the whole vocabulary; temperature 1.
        ids, probabilities: (items, top_k), the teacher's; ids None: (items, vocab) probabilities. They are normalised
            here.
    Returns: (items,) in nats.
    """
    student = _wide(logits).log_softmax(-1)
    student = student if ids is None else student.gather(-1, ids)
    teacher = probabilities.to(student.dtype)
    teacher = teacher / (teacher.sum(-1, keepdim=True) + 1e-12)
    return torch.sum(teacher * (teacher.clamp(min=1e-12).log() - student), dim=-1)


def unlikelihood(logits: Tensor, token: int) -> Tensor:
    """-ln(1 - p(token)), in float32 or wider: the unlikelihood loss of Welleck et al. (arXiv:1908.04319, section 3.1).

    Args:
        logits: (items, vocab), temperature 1; token: what should not come next.
    Returns: (items,) in nats.
    """
    wide = _wide(logits)
    others = wide.index_fill(-1, torch.tensor([token], device=wide.device), float("-inf"))
    return wide.logsumexp(-1) - others.logsumexp(-1)


def standardised_mse(states: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Squared distance of hidden states in units of each dimension's spread, mean over dimensions.

    Args:
        states, targets: (items, hidden); scale: (hidden,) standard deviation of the targets over the training set.
    Returns: (items,), about 2 for independent draws of the targets' own distribution.
    """
    return (((states - targets) / scale) ** 2).mean(-1)


def hidden_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    sigma: Tensor | None = None,
    divide: Literal["loss", "activations"] = "loss",
    weight: float = 1.0,
) -> LossTerm:
    """Distance of the student's hidden states to the teacher's, in units of each layer's spread.

    CODI's, arXiv:2502.21074, section 3 (zhenyi4/codi). With S_l and T_l of a row at layer l, sg the stopped gradient
    and M+1 layers, the row's item is

        1/(M+1) * sum_l mean SmoothL1(S_l - sg(T_l)) / sigma_l,    SmoothL1(x) = x^2 / 2 if |x| < 1 else |x| - 1/2

    Args:
        student, teacher: (batch, hidden) per layer.
        sigma: (layers,); None: the unbiased standard deviation over all rows and entries of T_l, hence a statistic of
            the batch.
        divide: `loss` as above (the released code); `activations`: SmoothL1((S_l - sg(T_l)) / sigma_l) (the paper).
        weight: factor in the objective.
    Returns: a row is an item.
    """
    states, targets = _wide(torch.stack(tuple(student))), _wide(torch.stack(tuple(teacher)).detach())
    sigma = (targets.std((1, 2)) if sigma is None else sigma)[:, None, None]  # targets: (layers, batch, hidden)
    if divide == "loss":
        each = smooth_l1_loss(states, targets, reduction="none") / sigma
    else:
        each = smooth_l1_loss(states / sigma, targets / sigma, reduction="none")
    return LossTerm(total=each.mean((0, 2)).sum(), num_items=targets.shape[1], weight=weight)


def _wide(logits: Tensor) -> Tensor:
    """float32 at least; float64 stays, tests compare to its precision."""
    return logits if logits.element_size() > 4 else logits.float()
