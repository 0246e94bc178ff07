"""Rollouts as tensors: the batch of whole groups, and the log-probabilities of its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latbench.config import RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs, Actions
from latbench.decoding.actions import Kind
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, SharedPrompts, Tensors, pad
from latbench.training.rl.groups import Group, Rollout

PLACEHOLDER = 0  # id of a latent in a sequence: any valid row of the table


def is_scored(kinds: Tensor, config: RLConfig, *, scores_latents: bool) -> Tensor:
    """Which steps are actions that are learnt from: (step,) Kind -> (step,) bool."""
    latent = (kinds == Kind.LATENT) & scores_latents & (config.learn_from != "text")
    text = ((kinds == Kind.TOKEN) | (kinds == Kind.CLOSE)) & (config.learn_from != "latents")
    return latent | text


def action_batch(method: Method[Any], groups: Sequence[Group], config: RLConfig) -> ActionBatch:
    """The batch of whole groups, without rows that nothing is learnt from; items are counted as if they were there."""
    rows = [row for group in groups for row in group.rollouts]
    items = _items(rows, config, scores_latents=method.scores_latents)
    batch = _tensors(method, kept_rows(groups, config), config)
    computed = batch.actions.kinds
    num_latents = int((computed == Kind.LATENT).sum())
    items |= dict.fromkeys(("rl/log_prob_difference", "rl/log_prob_difference_max"), len(computed))
    if method.scores_latents:
        items |= dict.fromkeys(("rl/clipped_latents", "rl/entropy_latents"), num_latents)
        items |= {f"rl/{name}": num_latents for name in method.rl_figures}
    items |= dict.fromkeys(("rl/clipped_text", "rl/entropy_text"), len(computed) - num_latents)
    batch.num_items = items
    return batch


def _terms(config: RLConfig) -> list[str]:
    terms = ["policy"] if config.parts == "joint" else ["policy_latents", "policy_text"]
    return terms + ["kl"] * (config.kl > 0)


def _belongs(kinds: Tensor, term: str) -> Tensor:
    """Which scored steps a term averages over."""
    latent = kinds == Kind.LATENT
    return latent if term == "policy_latents" else ~latent if term == "policy_text" else torch.ones_like(latent)


def kept_rows(groups: Sequence[Group], config: RLConfig) -> list[Rollout]:
    """The rows of groups that a batch computes.

    Rows that nothing is learnt from are left out: their advantages are 0, and no divergence is asked for. One is always
    left, so that every process has something to compute.
    """
    rows = [row for group in groups for row in group.rollouts]
    return [row for row in rows if config.kl or row.learns] or rows[:1]


def _items(rows: Sequence[Rollout], config: RLConfig, *, scores_latents: bool) -> dict[str, int]:
    """Items of each loss term: answers, or actions where `average` is per token."""
    items = {}
    for term in _terms(config):
        sizes = []
        for row in rows:
            kinds = row.kinds[is_scored(row.kinds, config, scores_latents=scores_latents)]
            sizes.append(int(_belongs(kinds, term).sum()))
        items[term] = sum(sizes) if config.average == "token" else len(rows)
    return items


def _tensors(method: Method[Any], rows: Sequence[Rollout], config: RLConfig) -> ActionBatch:
    sequences, labels, is_latent, kinds, ids = [], [], [], [], []
    said, advantages = [], []
    shares: dict[str, list[Tensor]] = {term: [] for term in _terms(config)}
    for row in rows:
        scored = is_scored(row.kinds, config, scores_latents=method.scores_latents)
        fed = row.ids[:-1].clamp(min=PLACEHOLDER).tolist()  # nothing follows the last
        sequences.append([*row.prompt, *fed])
        labels.append([IGNORE_INDEX] * (len(row.prompt) - 1) + [0 if s else IGNORE_INDEX for s in scored.tolist()])
        is_latent.append([0] * len(row.prompt) + [int(kind == Kind.LATENT) for kind in row.kinds[:-1].tolist()])
        own = row.kinds[scored]
        kinds.append(own)
        ids.append(row.ids[scored])
        said.append(row.said[scored])
        advantages.append(row.advantages()[scored])
        for term, parts in shares.items():
            parts.append(_share(_belongs(own, term), config))
    tokens = pad(sequences, labels)
    scored_at = tokens.labels != IGNORE_INDEX
    flat = torch.cat(ids)
    tokens.labels[scored_at] = torch.where(flat < 0, IGNORE_INDEX, flat)
    actions = Actions(
        kinds=torch.cat(kinds),
        ids=flat,
        advantages=torch.cat(advantages),
        shares=Tensors({term: torch.cat(parts) for term, parts in shares.items()}),
        said=torch.cat(said),
        old=_joined([row.old for row in rows]),
        reference=_joined([row.reference for row in rows]),
    )
    names = sorted({name for row in rows for name in row.records})
    records = {name: torch.cat([row.records[name] for row in rows if name in row.records]) for name in names}
    return ActionBatch(
        num_items={},
        sequence=tokens,
        prompts=SharedPrompts.of([row.prompt for row in rows]),
        is_latent=pad(is_latent).ids.bool(),
        records=Tensors(records),
        scored=scored_at,
        actions=actions,
        temperature=config.rollout.temperature,
        latent_noise=config.rollout.latent_noise,
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """What all rows have, or None where it has not been computed."""
    known = [part for part in parts if part is not None]
    assert not known or len(known) == len(parts), "computed for all rows of a batch or for none"
    return torch.cat(known) if known else None


def _share(belongs: Tensor, config: RLConfig) -> Tensor:
    """(action,) weights of an answer's actions in a term."""
    num = int(belongs.sum())
    divisor = {"sequence": num, "token": 1, "constant": config.constant_length}[config.average or "sequence"]
    return belongs.double() / max(divisor or 1, 1)


def text_log_probs(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens and entropies of what they were drawn from, in float32 or wider.

    Args:
        logits: (action, vocab).
        ids: (action,), -1 for what is no token: its value says nothing.
        temperature: of the sampling; top-k and top-p are not applied.
    Returns: (action,) values with gradients, and (action,) entropies in nats without.
    """
    wide = logits if logits.element_size() > 4 else logits.float()
    every = (wide / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy = -(every.exp() * every).sum(-1)
    return every.gather(-1, ids.clamp(min=0)[:, None])[:, 0], entropy


def score_text(backbone: Backbone, batch: ActionBatch) -> ActionLogProbs:
    """`action_log_probs` of a method without latent steps."""
    embeds = backbone.embed(batch.sequence.ids)
    output = backbone.causal(embeds, batch.sequence.positions, select=batch.scored, prompts=batch.prompts)
    return ActionLogProbs(*text_log_probs(output.logits, batch.actions.ids, batch.temperature))
