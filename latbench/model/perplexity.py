"""How likely a frozen model finds a text in a context: perplexities for rewards of plans."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from latbench.config import ModelConfig
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, pad

BATCH_TOKENS = 8192  # of one pass


@cache
def scorer(model_id: str, device: str = "auto") -> Backbone:
    """A frozen model, loaded once; `tiny` is the embedded one with fresh weights.

    Raises: ValueError: the model is not at hand.
    """
    return Backbone.load(ModelConfig(id=model_id, device=device), markers=False).requires_grad_(False).eval()


def perplexities(model: Backbone, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    """exp of the mean negative log-likelihood of the second part of each row after the first, in order.

    Args:
        rows: ids of a context, not empty, and of the text after it, not empty.
    """
    found = dict[int, float]()
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]) + len(rows[place][1]))
    while order:
        longest = len(rows[order[-1]][0]) + len(rows[order[-1]][1])
        taken = order[-max(1, BATCH_TOKENS // longest) :]
        order = order[: -len(taken)]
        ids = [[*rows[place][0], *rows[place][1]] for place in taken]
        labels = [[IGNORE_INDEX] * (len(rows[place][0]) - 1) + list(rows[place][1]) for place in taken]
        tokens = pad(ids, labels).to(model.device)
        with torch.inference_mode():
            logits, targets = model.logits_at_labels(tokens)
            each = -logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            means = [part.mean() for part in each.split([len(rows[place][1]) for place in taken])]
        found |= {place: float(mean.exp()) for place, mean in zip(taken, means, strict=True)}
    return [found[place] for place in range(len(rows))]
