"""Resume points of a stage on disk: which of them are whole, their weights, and the log that goes with one.

A resume point is local to the machine that writes it: the Trainer's optimiser and random states, which are loaded as
weights only, beside the tensors that training can change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from latbench.method import Method
from latbench.model.weights import is_finite, listed
from latbench.util.files import damage, sha256_of, temporary, write_whole

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


def hashes(point: Path) -> dict[str, str]:
    """SHA-256 of each file of a resume point but its own state file."""
    files = [path for path in sorted(point.rglob("*")) if path.is_file() and path.name != STATE]
    return {path.relative_to(point).as_posix(): sha256_of(path) for path in files}


def write_state(point: Path, state: Mapping[str, Any]) -> None:
    """Write the state file of a resume point, with the hashes of all that lies beside it: the last file to be written."""
    write_whole(point / STATE, json.dumps({**state, "files": hashes(point)}))


def put_weights(point: Path, other: Path) -> None:
    """Replace the weights of a resume point; a kill in the middle leaves the old or the new, and the state knows both."""
    state = json.loads((point / STATE).read_text(encoding="utf-8"))
    write_whole(point / STATE, json.dumps({**state, "replaced": sha256_of(other)}))
    beside = temporary(point / WEIGHTS)
    shutil.copyfile(other, beside)
    beside.replace(point / WEIGHTS)


def check_whole(point: Path, only: str | None = None) -> None:
    """Refuse a resume point whose files are not those that were saved.

    Args:
        only: one of the files; None: all.
    Raises: ValueError: a file is missing or changed.
    """
    try:
        state = json.loads((point / STATE).read_text(encoding="utf-8"))
        saved = {name: str(sha256) for name, sha256 in state["files"].items() if only in (None, name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{point / STATE} does not name the files that were saved; remove {point} and resume again"
        ) from None
    if only is not None:
        saved.setdefault(only, "none")
    if WEIGHTS in saved and (point / WEIGHTS).is_file() and sha256_of(point / WEIGHTS) == state.get("replaced"):
        del saved[WEIGHTS]
    if (change := damage(point, saved)) is not None:
        raise ValueError(f"{point} is damaged: {change}; remove {point} and resume again")


def load_weights(method: Method[Any], point: Path, names: frozenset[str]) -> None:
    """Set the named tensors of a method to those of a resume point.

    Raises: ValueError: unreadable or changed, not finite, or of another method or backbone.
    """
    check_whole(point, only=WEIGHTS)
    try:
        tensors = safetensors.torch.load_file(point / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{point / WEIGHTS} cannot be read ({error}); remove {point} and resume again") from None
    own = method.state_dict()
    fits = tensors.keys() == names and all(own[name].shape == tensor.shape for name, tensor in tensors.items())
    if not fits:
        raise ValueError(f"{point} holds the weights of another method or backbone; train into another folder")
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise ValueError(f"{point} holds NaN or infinity in {listed(broken)}; remove {point} and resume again")
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
