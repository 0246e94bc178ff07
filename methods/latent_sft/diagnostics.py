"""What stage 1 has learnt: written before stage 2 begins, while its decoder is still there.

`oracle` feeds the decoder the encoder's latents of the gold chain. It is high even for a bad encoder, because the last
slot sees the whole chain and can carry the answer alone; without that latent it says more, and the segment loss says
most: what the next segment costs, given one latent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from latbench.config import GenerateConfig
from latbench.decoding.intervened import Intervened
from latbench.decoding.loop import Prompt
from latbench.decoding.rule import LatentRule
from latbench.method import DIAGNOSTICS, HeldOut
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example
from latbench.util.files import write_whole
from methods.latent_sft.condenser import Condenser
from methods.latent_sft.sequences import Role, RoleTokens, encoder_tokens

BATCH = 64  # examples, fewer where they are longer than
TOKENS = 16_384  # in all
ANSWER = 64  # tokens at most


@dataclass(frozen=True, kw_only=True)
class Stage1Diagnostics:
    """On held-out examples; losses in nats per token.

    Args:
        segment_loss: of segment tokens.
        final_loss: of close marker and answer.
        loss_by_slot: of the targets of latent 1, 2, ..., those of a chain's last latent being close marker and answer.
        entropy: of the superposition, in nats, mean over latents; None in hidden space.
        top1: largest weight of the superposition, mean over latents; None in hidden space.
        oracle: accuracy of the decoder fed with the encoder's latents of the gold chain.
        oracle_without_last: without the last of them.
    """

    split: str
    num_examples: int
    segment_loss: float
    final_loss: float
    loss_by_slot: list[float]
    entropy: float | None
    top1: float | None
    oracle: float
    oracle_without_last: float


def write_diagnostics(method: Condenser, held_out: HeldOut, folder: Path) -> None:
    """Write them into `folder`, unless an earlier session has, or nothing is there to look at."""
    if not (folder / DIAGNOSTICS).exists() and _fitting(method, held_out):
        write_whole(folder / DIAGNOSTICS, json.dumps(asdict(diagnose(method, held_out)), indent=1) + "\n")


@torch.no_grad()
def diagnose(method: Condenser, held_out: HeldOut) -> Stage1Diagnostics:
    """Diagnostics of the encoder and decoder as they are now, on examples that the method can train on."""
    method.eval()  # the trainer turns training on again, step by step
    examples = _fitting(method, held_out)
    longest = max(len(method.backbone.layout.encode(example)) for example in examples)
    batch = max(1, min(BATCH, TOKENS // longest))
    seen = [_look(method, examples[start : start + batch]) for start in range(0, len(examples), batch)]
    losses, slots, is_segment = (
        torch.cat([getattr(part, name) for part in seen]) for name in ("losses", "slots", "is_segment")
    )
    counts = slots.bincount()[1:]
    by_slot = slots.bincount(losses.double())[1:] / counts
    latents = [row for part in seen for row in part.latents]
    weights = [part.weights for part in seen if part.weights is not None]
    mixed = torch.cat(weights) if weights else None
    return Stage1Diagnostics(
        split=held_out.split,
        num_examples=len(examples),
        segment_loss=float(losses[is_segment].mean()),
        final_loss=float(losses[~is_segment].mean()),
        loss_by_slot=[round(value, 4) for value in by_slot.tolist()],
        entropy=None if mixed is None else float(-(mixed * mixed.clamp(min=1e-12).log()).sum(-1).mean()),
        top1=None if mixed is None else float(mixed.max(-1).values.mean()),
        oracle=_oracle(method, held_out, examples, latents),
        oracle_without_last=_oracle(method, held_out, examples, [row[:-1] for row in latents]),
    )


def _fitting(method: Condenser, held_out: HeldOut) -> list[Example]:
    stage = method.stages()[-1]
    return [example for example in held_out.examples if method.skip_reason(example, stage) is None]


@dataclass
class _Seen:
    losses: Tensor  # (items,) of supervised tokens
    slots: Tensor  # (items,) latent they hang off
    is_segment: Tensor  # (items,) the target is a token of a segment
    weights: Tensor | None  # (latents, top_k)
    latents: list[Tensor]  # (num_latents, hidden) per example


def _look(method: Condenser, examples: Sequence[Example]) -> _Seen:
    pieces = [method.backbone.layout.encode(example) for example in examples]
    encoder = encoder_tokens(pieces, method.config.tokens_per_latent).to(method.backbone.device)
    decoder: RoleTokens = method.decoder_tokens(pieces).to(method.backbone.device)
    found = method.latents(encoder)
    supervised = decoder.labels != IGNORE_INDEX
    logits = method.decode_latents(decoder, found.embeds, select=supervised)
    target_roles = decoder.roles.roll(-1, 1)[supervised]
    return _Seen(
        losses=cross_entropy(logits.float(), decoder.labels[supervised], reduction="none").cpu(),
        slots=decoder.slots[supervised].cpu(),
        is_segment=(target_roles == Role.SEGMENT).cpu(),
        weights=None if found.weights is None else found.weights.cpu(),
        latents=list(found.embeds.split(encoder.is_latent.sum(1).tolist())),
    )


def _oracle(method: Condenser, held_out: HeldOut, examples: Sequence[Example], latents: Sequence[Tensor]) -> float:
    """Accuracy of greedy answers after these latents."""
    prompts = [Prompt(id=example.id, text=example.question) for example in examples]
    counts = [len(row) for row in latents]
    config = GenerateConfig(batch_size=BATCH, max_new_tokens=ANSWER, max_latents=max(counts))
    rule = method.rule(config)
    assert isinstance(rule, LatentRule)
    generations = method.generate(prompts, config, rule=Intervened(rule, counts, latents))
    pairs = [(generation.text, example) for generation, example in zip(generations, examples, strict=True)]
    return sum(score.status == "correct" for score in held_out.task.score_many(pairs)) / len(examples)
