"""What a run was begun with: data, model and versions. A run that was killed is continued with the same, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latbench.config import TINY, ModelConfig
from latbench.runs import environment
from latbench.task import Example
from latbench.util.files import write_whole

BEGUN = "begun.json"
COMPARED = {"data": "training data", "examples": "training examples", "model": "model files", "versions": "versions"}
SCORING_ALONE = ("python", "math-verify", "sympy")  # of `environment.versions`: they change no weight


def begun_with(
    examples: Sequence[Example],
    data: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, str],
    own_code: Mapping[str, str],
) -> dict[str, Any]:
    """What a run would be begun with now, as JSON values.

    Args:
        examples: as they are trained on.
        data: fingerprints of the splits they come from, with `sha256`.
        model: SHA-256 of the model's files by name; empty for the embedded one.
        own_code: as `registry.own_code` gives it.
    """
    commit, dirty = environment.git_state()
    versions = {**environment.versions(), **own_code}
    return {
        "data": {name: str(fingerprint["sha256"]) for name, fingerprint in data.items()},
        "examples": {"n": len(examples), "sha256": _examples_hash(examples)},
        "model": dict(model),
        "versions": {name: version for name, version in versions.items() if name not in SCORING_ALONE},
        "git_commit": commit,
        "git_dirty": dirty,
        "started": environment.now(),
    }


def model_hashes(model: ModelConfig) -> dict[str, str]:
    """SHA-256 of each file that a load of this model reads; none for the embedded one, which is built in code.

    Raises: ValueError: the model is not at hand.
    """
    if model.id == TINY:
        return {}
    from latbench.model.source import file_hashes

    return file_hashes(model.id, model.revision, weights=model.weights == "pretrained")


def check_same(folder: Path, now: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the run in a folder was begun with; None where it has not begun.

    Raises: ValueError: it was begun with something else, or does not say with what.
    """
    path = folder / BEGUN
    if not path.exists():
        if any(folder.glob("stages/*")):
            raise ValueError(
                f"{folder} does not say what its training was begun with ({BEGUN} is missing); remove the folder to "
                "train anew"
            )
        return None
    before = _read(path)
    for key in COMPARED:
        _refuse_changed(folder, key, before[key], now[key])
    return before


def check_same_code(folder: Path, own_code: Mapping[str, str]) -> None:
    """Raises: ValueError: the run in a folder, which may be complete, was begun with other own Python files."""
    if own_code and (path := folder / BEGUN).exists():
        then = _read(path)["versions"]
        _refuse_changed(folder, "versions", {name: then.get(name) for name in own_code}, own_code)


def _read(path: Path) -> dict[str, Any]:
    """What was kept, with the mappings of COMPARED. Raises: ValueError: damaged."""
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return before | {key: dict(before[key]) for key in COMPARED}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; remove {path.parent} to train anew") from None


def _refuse_changed(folder: Path, key: str, then: Mapping[str, Any], today: Mapping[str, Any]) -> None:
    changed = [
        f"{name} {_short(then.get(name))}, now {_short(today.get(name))}"
        for name in sorted({*then, *today})
        if then.get(name) != today.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} was begun with other {COMPARED[key]} ({'; '.join(changed[:3])}); continue it with what it was "
            "begun with, or remove the folder to train anew"
        )


def write_begun(folder: Path, now: Mapping[str, Any]) -> None:
    """Keep what a run is begun with."""
    write_whole(folder / BEGUN, json.dumps(now, indent=1) + "\n")


def _examples_hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        row = [example.id, example.question, example.steps, example.answer]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _short(value: object) -> str:
    return "absent" if value is None else str(value)[:12]
