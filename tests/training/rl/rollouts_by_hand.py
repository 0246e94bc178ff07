"""Rollouts with given steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from latbench.decoding.actions import Kind
from latbench.training.rl.groups import Rollout


def rollout(
    prompt: Iterable[int],
    ids: Iterable[int] | Tensor,
    *,
    kinds: Iterable[int] | None = None,
    records: Mapping[str, Tensor] | None = None,
    advantage: float = 1.0,
    **changes: Any,
) -> Rollout:
    """An answer; by default all its steps are sampled tokens."""
    steps = torch.as_tensor(list(ids), dtype=torch.long)
    found = torch.full_like(steps, Kind.TOKEN) if kinds is None else torch.tensor(list(kinds))
    num_latents = int((found == Kind.LATENT).sum())
    values: dict[str, Any] = {
        "prompt": tuple(prompt),
        "kinds": found,
        "ids": steps,
        "said": torch.zeros(len(steps)),
        "records": dict(records or {}),
        "text": "",
        "correct": float(advantage > 0),
        "reward": float(advantage > 0),
        "valid": True,
        "num_latents": num_latents,
        "num_reasoning_tokens": len(steps) - num_latents,
        "num_answer_tokens": 0,
        "advantage": advantage,
        "first_advantage": advantage,
    }
    return Rollout(**{**values, **changes})
