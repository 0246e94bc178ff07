"""What makes two configurations one: the flattened tree without what changes no result, and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from latbench import registry
from latbench.config import tree
from latbench.config.generate import GenerateConfig
from latbench.config.rl import RLConfig
from latbench.config.sections import ModelConfig, TrainConfig

SECTIONS: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "generate": GenerateConfig}
UNTRAINED = "none"  # the training data of a run without training, before the hash of its model
OWN = "generate.method"  # decoding settings of one method; in an identity they are keys of `generate` like others

# Keys that change how a run is carried out but not what it finds. Batch size and chunk of `generate` are among them,
# because every row decodes as it would alone; `model.attention` and `dtype` are not: they round.
CARRIED_OUT = frozenset(
    {
        "model.device",
        "model.device_map",
        "model.gradient_checkpointing",
        "train.save_every",
        "train.log_every",
        "train.trackers",
        "generate.batch_size",
        "generate.chunk",
        "generate.trace_top_k",
        # where own data lay; `task.sha256` says which they are
        "task.path",
        # where released weights lay; `imported.sha256` says which they are
        "imported.source",
        "imported.revision",
        "imported.base",
        "imported.base_revision",
    }
)
# Keys of `generate` that every run had before they moved to the methods that read them, with the value that left them
# unused. Older configurations hold them, and every identity still counts the ones that are set, so that settings stay
# what they were.
MOVED: dict[str, Any] = {"latent_noise": 0.0, "latent_noise_temperature": 1.0, "thinking_speed": None}
# What an importer chose stands in the sections themselves, where the user may have said otherwise.
CHOSEN = "imported.settings"


SAID_ELSEWHERE = ("task.sha256",)  # keys that a variant leaves out: the training data are named beside it


# Keys that are no settings any more, with the value that every run had which has them: a part of every identity still.
RETIRED: dict[str, Any] = {"model.trust_remote_code": False}


def stable_hash(value: Any) -> str:
    """Eight hex digits of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def identity(whole: tree.Tree) -> tree.Tree:
    """What two configurations that are one have in common: flattened, with RETIRED keys, and without younger keys at
    their defaults."""
    younger = dict(_younger(whole))
    return RETIRED | {
        key: value for key, value in results_only(whole).items() if key not in younger or value != younger[key]
    }


def results_only(whole: tree.Tree) -> tree.Tree:
    """Flattened tree without the seed, the preset's name (its values are there) and what changes no result."""
    start = results_only(whole["start"]) if whole.get("start") else {}  # absent and null are one
    own = dict(tree.flatten({key: value for key, value in whole.items() if key not in ("seed", "preset", "start")}))
    flat = {key.replace(f"{OWN}.", "generate."): value for key, value in own.items() if key != OWN}
    flat = {f"generate.{name}": value for name, value in MOVED.items() if value is not None} | flat
    return {key: value for key, value in flat.items() if key not in CARRIED_OUT and not key.startswith(CHOSEN)} | {
        f"start.{key}": value for key, value in start.items() if not key.startswith("generate.")
    }


def decoding_identity(generate: GenerateConfig) -> tree.Tree:
    """The settings of decoding that change answers, by their keys in an identity."""
    settings = dataclasses.asdict(generate)
    own = settings.pop("method") or {}
    return {key: value for key, value in (MOVED | settings | own).items() if f"generate.{key}" not in CARRIED_OUT}


def modernised(stored: Mapping[str, Any]) -> tree.Tree:
    """A configuration from a file, with the keys of `generate` that moved to the methods in their place of today.

    A method that does not read such a key never did: it is left out.
    """
    whole = dict(stored)
    if isinstance(start := whole.get("start"), dict):
        whole["start"] = modernised(start)
    generate, method = whole.get("generate"), whole.get("method")
    name = method.get("name") if isinstance(method, dict) else method
    if not isinstance(generate, dict) or name not in registry.method_names():
        return whole
    kind = registry.get_method(str(name)).decoding
    reads = {field.name for field in dataclasses.fields(kind)} if kind else set()
    moved = {key: value for key, value in generate.items() if key in MOVED}
    given = generate.get("method")
    own = {key: value for key, value in moved.items() if key in reads} | (given if isinstance(given, dict) else {})
    kept = {key: value for key, value in generate.items() if key not in MOVED and key != "method"}
    return whole | {"generate": kept | ({"method": own} if own else {})}


def _younger(whole: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Keys younger than committed results, as an identity names them, with their defaults."""
    method = registry.get_method(whole["method"]["name"])
    classes = {**SECTIONS, "train.rl": RLConfig, "method": method.config, "generate.": method.decoding}
    if "task" in whole:
        classes["task"] = registry.get_task_entry(whole["task"]["name"]).config
    for section, cls in classes.items():
        for name, field in getattr(cls, "__pydantic_fields__", {}).items():
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("younger"):
                yield (
                    f"{within}{section.rstrip('.')}.{name}",
                    to_jsonable_python(field.get_default(call_default_factory=True)),
                )
    if whole.get("start"):
        yield from _younger(whole["start"], f"{within}start.")


def untrained_data(model: Mapping[str, str]) -> str:
    """What stands for the training data in the identity of a run without training: none, and which model it is.

    Args:
        model: SHA-256 of its files by name; empty for the embedded one, which its configuration says.
    """
    return f"{UNTRAINED}, model sha256={stable_hash(dict(model))}" if model else UNTRAINED


def is_untrained(train_data: str) -> bool:
    """Whether training data, as an identity names them, are those of a run without training."""
    return train_data.partition(",")[0] == UNTRAINED
