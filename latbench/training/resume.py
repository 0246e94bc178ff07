"""Resume points of a stage on disk: which of them are whole, their weights, and the log that goes with one.

A resume point is local to the machine that writes it: the Trainer's optimiser and random states, which are loaded as
weights only, beside the tensors that training can change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from latbench.method import Method
from latbench.util.files import write_whole

CHECKPOINT = "checkpoint-"  # of transformers: checkpoint-<optimiser step>
WEIGHTS = "model.safetensors"  # where transformers looks for weights
TRAINER_STATE = "trainer_state.json"
STATE = "latbench_state.json"
OPTIMIZER = "optimizer.pt"  # of transformers


def resume_points(folder: Path) -> list[Path]:
    """Whole resume points of a stage, the latest first; one without readable states does not count."""
    found = {}
    for path in folder.glob(f"{CHECKPOINT}*"):
        try:
            step = int(json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"])
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found[step] = path
    return [found[step] for step in sorted(found, reverse=True)]


def step_of(point: Path) -> int:
    """Optimiser steps behind a resume point."""
    return int(point.name.removeprefix(CHECKPOINT))


def load_weights(method: Method[Any], folder: Path, names: frozenset[str]) -> None:
    """Set the named tensors of a method to those of a resume point.

    Raises: ValueError: unreadable, or of another method or backbone.
    """
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}); remove {folder} and resume again") from None
    own = method.state_dict()
    fits = tensors.keys() == names and all(own[name].shape == tensor.shape for name, tensor in tensors.items())
    if not fits:
        raise ValueError(f"{folder} holds the weights of another method or backbone; train into another folder")
    method.load_state_dict(tensors, strict=False)  # tied tensors are stored once, frozen ones not at all


def cut_log(path: Path, step: int) -> None:
    """Drop rows after `step`, and a row cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, "".join(kept))


def shrink(point: Path, *, optimizer: bool) -> None:
    """Leave of a complete stage's resume point its weights and, where the next stage goes on with it, the optimiser."""
    for path in point.iterdir():
        if path.suffix != ".json" and path.name != WEIGHTS and not (optimizer and path.name == OPTIMIZER):
            path.unlink()
