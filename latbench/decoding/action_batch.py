"""Rollouts as tensors: what `Method.action_log_probs` is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from latbench.model.batches import Batch, Movable, SharedPrompts, Tensors, Tokens


@dataclass
class Actions(Movable):
    """The actions of a batch of rollouts.

    Args:
        kinds: (action,) Kind.
        ids: (action,) the token or the close marker's first id, -1 for a latent step.
        advantages: (action,).
        shares: by loss term, the part of an item of that term that each action has.
        said: (action,) log-probabilities according to the decoding loop.
        old: (action,) log-probabilities before the first update; None: those of this very pass, since there is only
            one update.
        reference: (action,) of the frozen reference, where the divergence from it has a weight.
    """

    kinds: Tensor
    ids: Tensor
    advantages: Tensor
    shares: Tensors
    said: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None


@dataclass(kw_only=True)
class ActionBatch(Batch):
    """Rollouts of whole groups.

    Args:
        sequence: each row a prompt and what was fed after it; a placeholder id where a latent was fed.
        prompts: which rows answer the same prompt.
        is_latent: (batch, seq) bool: the input here is a latent.
        records: what the rule kept of each latent step: (latents, ...) by name, in row-major order of `is_latent`.
        scored: (batch, seq) bool: what follows this position is an action.
        actions: in row-major order of `scored`.
        temperature: of the sampling of text, in drawing and in log-probabilities alike.
        latent_noise: scale of the noise on latents, likewise.
    """

    sequence: Tokens
    prompts: SharedPrompts
    is_latent: Tensor
    records: Tensors
    scored: Tensor
    actions: Actions
    temperature: float
    latent_noise: float


@dataclass
class ActionLogProbs:
    """What a method says of the actions of a batch of rollouts, in the order of its `scored` positions.

    Args:
        values: (action,) log-probabilities, with gradients, float32 or wider.
        entropy: (action,) nats, of the distribution each was chosen from; a figure for the log.
        figures: further figures of the latent steps for the log, (latent,) by the names of `Method.rl_figures`.
    """

    values: Tensor
    entropy: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)
