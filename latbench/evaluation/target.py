"""Who is to be evaluated: a trained run, or a method over a model as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import parse, tree
from latbench.evaluation.plan import decoding_changes
from latbench.runs.run import Run, find_run, load_run
from latbench.runs.train import base_run


def evaluation_target(
    run: str | None,
    model: str | None,
    method: str | None,
    changes: Mapping[str, Any],
    *,
    preset: str | None,
    device: str | None,
    runs_dir: Path,
    trust_remote_code: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """What to evaluate, and the changes of the evaluation itself.

    Args:
        run: folder or name of a run; None: the latest trained one, unless model and method are given.
        model: a model as it comes.
        method: a registered method over that model, or the Python file of one. A file without a model says what a
            trained run's method is.
        changes: settings by dotted key. Of a model as it comes, `model.*` and `method.*` set it up, and decoding that
            differs from that of the run on file is a change of the evaluation.
        preset: of the method over a model as it comes.
        device: where the model is put.
        runs_dir: folder of all runs.
        trust_remote_code: run Python files that lie beside the model.
    Raises: ValueError: both or half of it was given, or there is no such run.
    """
    changes = dict(changes)
    if method is not None and (name := registry.from_file("method", method)) != method:
        method = None if model is None else name
    device_map = changes.pop("model.device_map", None)  # where a run's model is put is not fixed by its training
    if model is None and method is None:
        if preset is not None:
            raise ValueError("--preset belongs to an evaluation with --model and --method; a run has its own")
        folder = find_run(run, runs_dir)
        there = load_run(folder, device=device, device_map=device_map, trust_remote_code=trust_remote_code)
        return there, changes
    if run is not None:
        raise ValueError("RUN names a trained run and --model with --method an untrained one; give one of the two")
    if model is None or method is None:
        raise ValueError("an evaluation without a run needs both --model and --method")
    fixed = {key: changes.pop(key) for key in list(changes) if key.split(".")[0] in ("model", "method")}
    named = {"model.id": model, "method.name": method} | ({} if device is None else {"model.device": device})
    config = parse(tree.unfold(fixed | named), preset=preset)
    base = base_run(config, runs_dir=runs_dir, trust_remote_code=trust_remote_code)
    return base, decoding_changes(base.config, config) | changes
