"""Evaluations that passed `leaderboard --check` here before, so that what has not changed is not checked again.

A pass is recorded under a hash of everything that the check reads: the files of the evaluation, the source of latbench,
its methods and tasks, the versions of what can change a result, and the data files at hand, own data among them. It
lies in the user's cache folder and not beside the results: no submission can bring its own. Evaluations whose model is
a local folder are always checked, as that may change without a trace.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from latbench.data import DATA_DIR
from latbench.registry import FILES
from latbench.runs.environment import versions
from latbench.util.files import sha256_of, write_whole

CACHE = "XDG_CACHE_HOME"  # environment: the user's cache folder, ~/.cache without it
PACKAGES = ("latbench", "methods", "tasks")
MAX_BYTES = 1 << 28  # of an evaluation's files together; larger ones are always checked
_HUB = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HOME")


def passed_before(key: str | None) -> list[str] | None:
    """The caveats of an evaluation that has passed as it is; None where it has not.

    Args:
        key: of the evaluation, see `key_of`.
    """
    if key is None:
        return None
    try:
        caveats = json.loads((_folder() / key).read_text(encoding="utf-8"))["caveats"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [str(caveat) for caveat in caveats]


def keep_pass(key: str | None, caveats: Sequence[str]) -> None:
    """Record that an evaluation has passed; nothing where the cache cannot be written.

    Args:
        key: of the evaluation, made before it was looked at.
        caveats: found in it.
    """
    if key is None:
        return
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
        write_whole(_folder() / key, json.dumps({"caveats": list(caveats)}))


def _folder() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache") / "latbench" / "checked"


def key_of(folder: Path) -> str | None:
    """The hash of what the check of an evaluation reads; None where that cannot be told.

    Args:
        folder: of the evaluation.
    """
    try:
        inside = sorted(folder.rglob("*"))
        files = [path for path in inside if path.is_file()]
        if sum(path.stat().st_size for path in files) > MAX_BYTES:
            return None
        config = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["config"]
        if any(Path(name).exists() for name in _models(config)):
            return None
        facts = [str(folder), _surroundings(), _data_files(), json.dumps(list(_named_files(config)))]
        facts += [f"{path.relative_to(folder)} {sha256_of(path)}" for path in files]
        facts += [f"{path.relative_to(folder)}/" for path in inside if not path.is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a manifest of any shape
        return None
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _runs(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The configuration of a run, of the one that it starts from, and so on."""
    while config:
        yield config
        config = config.get("start")


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    yield str(config["model"]["id"])
    for start in _runs(config.get("start")):
        if "model" in start:  # it names a model where that is another one
            yield str(start["model"]["id"])


def _named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Files with own data, of the evaluation and of the training of its run, and Python files with further methods and
    tasks: by place, size and time of change."""
    parts = [config.get("eval") or {}, *_runs(config)]
    named = [str((part.get("task") or {}).get("path") or "") for part in parts]
    named += os.environ.get(FILES, "").split(os.pathsep)
    for path in (Path(name).expanduser() for name in named if name):
        if path.is_file():
            yield str(path), path.stat().st_size, path.stat().st_mtime_ns


@cache
def _surroundings() -> str:
    """The source of our packages, the versions of others and further methods and tasks."""
    top = Path(__file__).parents[1]
    source = [
        f"{path.relative_to(top)} {sha256_of(path)}"
        for package in PACKAGES
        for path in sorted((top / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    others = [f"{found.value} {found.dist.version if found.dist else None}" for group in ("methods", "tasks")
              for found in entry_points(group=f"latbench.{group}")]  # fmt: skip
    return hashlib.sha256(json.dumps([source, versions(), others]).encode()).hexdigest()


@cache
def _data_files() -> str:
    """The data files at hand, by place, size and time of change, and where else data may come from."""
    top = os.environ.get(DATA_DIR)
    files = sorted(Path(top).expanduser().rglob("*")) if top else []
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    return json.dumps([top, facts, [os.environ.get(name) for name in _HUB]])
