"""What makes two configurations one: the flattened tree without what changes no result, and its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from latbench.config import tree

# Keys that change how a run is carried out but not what it finds. Batch size and chunk of `generate` are among them,
# because every row decodes as it would alone (DESIGN.md 10); `model.attention` and `dtype` are not: they round.
CARRIED_OUT = frozenset(
    {
        "model.device",
        "model.gradient_checkpointing",
        "train.save_every",
        "train.log_every",
        "train.trackers",
        "generate.batch_size",
        "generate.chunk",
        "generate.trace_top_k",
        # where released weights lay; `imported.sha256` says which they are
        "imported.source",
        "imported.revision",
        "imported.base",
        "imported.base_revision",
    }
)
# What an importer chose stands in the sections themselves, where the user may have said otherwise.
CHOSEN = "imported.settings"
# Keys younger than committed results, with the value that every run before them had: at that value they are no part of
# an identity, so that run ids and settings stay what they were.
YOUNGER: dict[str, Any] = {
    "train.reset_optimizer": True,
    "generate.thinking_speed": None,
    "model.words": None,
    "train.auxiliary_lr": None,
    "method.thought": "hidden",
    "model.instruction": "",
    "model.markers": None,
}


# Keys that are no settings any more, with the value that every run had which has them: a part of every identity still.
RETIRED: dict[str, Any] = {"model.trust_remote_code": False}


def stable_hash(value: Any) -> str:
    """Eight hex digits of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def identity(whole: tree.Tree) -> tree.Tree:
    """What two configurations that are one have in common: flattened, with RETIRED keys, and without YOUNGER ones at
    their old values."""
    return RETIRED | {
        key: value
        for key, value in results_only(whole).items()
        if (name := key.rpartition("start.")[2]) not in YOUNGER or value != YOUNGER[name]
    }


def results_only(whole: tree.Tree) -> tree.Tree:
    """Flattened tree without the seed, the preset's name (its values are there) and what changes no result."""
    start = results_only(whole["start"]) if whole.get("start") else {}  # absent and null are one
    own = tree.flatten({key: value for key, value in whole.items() if key not in ("seed", "preset", "start")})
    return {k: value for k, value in own if k not in CARRIED_OUT and not k.startswith(CHOSEN)} | {
        f"start.{key}": value for key, value in start.items() if not key.startswith("generate.")
    }
