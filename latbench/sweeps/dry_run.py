"""What a sweep would do, before it does it: runs, evaluations, passes over examples and operations of training."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import RunConfig, stable_hash
from latbench.runs.run import TRAIN
from latbench.runs.train import training_examples
from latbench.sweeps.sweep import SweepConfig, members, open_members


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A training that a sweep would do."""

    run: str
    """Name of its folder."""
    steps: int
    """Optimiser steps."""
    passes: int
    """Examples seen, each as often as it is."""
    flops: float | None
    """Operations of training; None where they cannot be known before."""


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """What is left to do of a sweep. A run that is begun counts as a whole."""

    num_complete: int
    """Runs with nothing left to do."""
    runs: list[PlannedRun]
    """Trainings to do, those of runs that others start from included, each once."""
    num_evaluations: int
    """To make."""
    num_answers: int
    """In them."""

    @property
    def passes(self) -> int:
        """Of all trainings."""
        return sum(run.passes for run in self.runs)

    @property
    def flops(self) -> float | None:
        """Of all trainings; None where those of one cannot be known."""
        found = [run.flops for run in self.runs if run.flops is not None]
        return sum(found) if len(found) == len(self.runs) else None


def plan_sweep(sweep: SweepConfig, *, runs_dir: Path, trust_remote_code: bool = False) -> PlannedSweep:
    """Look at what a sweep would do. Operations are those of the loss of a few examples, times the passes.

    Args:
        sweep: its content.
        runs_dir: folder of all runs.
        trust_remote_code: run Python files that lie beside the models.
    Raises: ValueError: invalid configurations or evaluations, or data or models that are not at hand.
    """
    everyone = members(sweep, runs_dir)
    left = open_members(everyone, sweep)
    costs: dict[str, tuple[int, int, float | None]] = {}
    runs = []
    for config in _trainings([member.run.config for member in left], runs_dir):
        key = stable_hash(_without_seed(config.to_tree()))
        if key not in costs:
            costs[key] = _costs(config, trust_remote_code)
        steps, passes, flops = costs[key]
        runs.append(PlannedRun(run=config.run_id, steps=steps, passes=passes, flops=flops))
    jobs = [job for member in left for job in member.open_jobs(sweep)]
    return PlannedSweep(
        num_complete=len(everyone) - len(left),
        runs=runs,
        num_evaluations=len(jobs),
        num_answers=sum(len(job.examples) * job.settings.generate.samples for job in jobs),
    )


def _trainings(configs: Sequence[RunConfig], runs_dir: Path) -> list[RunConfig]:
    """What is to be trained, starts before what starts from them, each once."""
    found: dict[str, RunConfig] = {}
    for config in configs:
        if (runs_dir / config.run_id / TRAIN).exists():
            continue
        for earlier in _trainings([config.start] if config.start else [], runs_dir):
            found.setdefault(earlier.run_id, earlier)
        found.setdefault(config.run_id, config)
    return list(found.values())


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its seeds: they change no cost."""
    return {
        key: _without_seed(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "seed"
    }


def _costs(config: RunConfig, trust_remote_code: bool) -> tuple[int, int, float | None]:
    """Steps, passes and operations of one training, without its start."""
    from latbench.model.backbone import Backbone
    from latbench.training.estimate import estimate_training

    entry = registry.get_method(config.method_name)
    examples, _ = training_examples(registry.get_task_entry(config.task_name).cls(config.task), config)
    backbone = Backbone.load(config.model, seed=config.seed, trust_remote_code=trust_remote_code)
    stages = estimate_training(entry.cls(backbone, config.method), examples, config.train)
    del backbone
    gc.collect()  # the next model takes its place
    known = [stage.flops for stage in stages if stage.flops is not None]
    flops = sum(known) if len(known) == len(stages) else None
    return sum(stage.steps for stage in stages), sum(stage.passes for stage in stages), flops
