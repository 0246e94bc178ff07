"""The projector's refresh between passes of reinforcement learning, on fresh correct traces (arXiv:2512.02240).

Each rollout leaves its correct traces in a file of the stage's folder that carries its number. A refresh reads those
since the last one, so that a killed run, which draws the same rollouts, repeats it to the same bits; the refreshed
projector itself is part of the resume points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch.optim import AdamW

from latbench.decoding.actions import Kind
from latbench.decoding.sampling import row_keys, uniform
from latbench.task import Example
from latbench.training.rl.groups import Group, Rollout
from latbench.util.files import write_whole
from methods.litereason.tagged import TaggedModel
from methods.litereason.traces import Trace, choosable, reasoning, sentences

BETAS = (0.9, 0.95)


def file_of(folder: Path, number: int) -> Path:
    """Where the traces of a rollout are."""
    return folder / f"rollout-traces-{number}.json"


def keep(method: TaggedModel, groups: Sequence[Group], number: int, folder: Path) -> None:
    """Write the correct traces of a rollout that have a sentence to replace."""
    if not PartialState().is_main_process:
        return
    rows = [
        {"example": group.example, "trace": trace}
        for group in groups
        for row in group.rollouts
        if row.correct > 0 and (trace := trace_of(method, row))
    ]
    write_whole(file_of(folder, number), json.dumps({"passes": method.passes, "traces": rows}))


def trace_of(method: TaggedModel, row: Rollout) -> Trace:
    """The reasoning of a rollout as sentences and tags; empty where there is nothing to replace, or no answer."""
    close = list(method.backbone.layout.close)
    text: str | None
    if close:
        ids = [token for token, kind in zip(row.ids.tolist(), row.kinds.tolist(), strict=True) if kind != Kind.LATENT]
        ends = [at for at in range(len(ids)) if ids[at : at + len(close)] == close]
        text = method.backbone.layout.decode(ids[: ends[0]]) if ends else None
    else:
        text = reasoning(row.text)
    found = sentences(text or "", method.tags)
    return found if choosable(found, method.tags) else ()


def before_rollout(method: TaggedModel, number: int, passes: int, folder: Path) -> None:
    """Refresh the projector, where its time has come.

    Args:
        passes: over the questions that have been drawn before this rollout.
    """
    method.passes = passes
    if number == 0 or method.config.refresh_every == 0:
        return
    state = PartialState()
    state.wait_for_everyone()  # the main process writes
    past = since_last(method.config.refresh_every, number, passes, folder)
    if not past:
        return
    examples = samples(method, [row for kept in past for row in kept["traces"]], number)
    if examples:
        refresh(method, examples)
    if state.num_processes > 1:
        for parameter in method.projector.parameters():
            broadcast(parameter.data)


def since_last(every: int | None, number: int, passes: int, folder: Path) -> list[dict[str, Any]]:
    """What the rollouts since the last refresh have kept; nothing where it is not time for another.

    Args:
        every: rollouts between two refreshes; None: those that began in one pass over the questions.
        number: of the rollout to come.
        passes: that have been drawn before it.
    """
    if every is not None:
        return [] if number % every else [_read(file_of(folder, past)) for past in range(number - every, number)]
    found = [_read(file_of(folder, number - 1))]
    if found[0]["passes"] == passes:
        return []
    for past in range(number - 2, -1, -1):
        kept = _read(file_of(folder, past))
        if kept["passes"] != found[0]["passes"]:
            break
        found.insert(0, kept)
    return found


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def samples(method: TaggedModel, rows: Sequence[dict[str, Any]], number: int) -> list[Example]:
    """Masked examples of a random share of the traces, one at each ratio, with the reference answer."""
    names = [f"refresh {number} {place}" for place in range(len(rows))]
    keys = row_keys(method.seed, names, [0] * len(rows))
    order = uniform(keys, torch.zeros_like(keys)).argsort().tolist() if names else []
    num = max(1, int(method.config.refresh_share * len(rows)))
    made = []
    for place in order[:num]:
        example, trace = method.asked[rows[place]["example"]], tuple(rows[place]["trace"])
        for ratio in method.config.replaced:
            masked = method.with_tags(example, trace, ratio, keys[place])
            batch = method.trace_batch([masked])
            if method.backbone.beyond_context(int(batch.sequence.lengths[0])) is None:
                made.append(masked)
    return made


def refresh(method: TaggedModel, examples: Sequence[Example]) -> None:
    """One pass of the projector over masked examples, with an optimiser of its own and the model frozen.

    An update that is not finite is left out.
    """
    flags = {parameter: parameter.requires_grad for parameter in method.parameters()}
    gradients = {parameter: parameter.grad for parameter in method.projector.parameters()}
    config, was_training = method.config, method.training
    method.requires_grad_(False)
    method.projector.requires_grad_(True)
    method.eval()
    optimizer = AdamW(method.projector.parameters(), lr=config.refresh_lr, betas=BETAS, weight_decay=0.0)
    try:
        for start in range(0, len(examples), config.refresh_batch):
            batch = method.trace_batch(examples[start : start + config.refresh_batch]).to(method.backbone.device)
            with torch.enable_grad(), method.autocast():
                objective = method.continuation(batch).objective()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            parts = [parameter.grad for parameter in method.projector.parameters() if parameter.grad is not None]
            if torch.isfinite(objective) and torch.isfinite(torch.nn.utils.get_total_norm(parts)):
                optimizer.step()
    finally:
        for parameter, wanted in flags.items():
            parameter.requires_grad_(wanted)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        method.train(was_training)
