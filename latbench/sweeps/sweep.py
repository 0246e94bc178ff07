"""A sweep: methods x tasks x seeds x settings as a list of runs, each trained and evaluated once.

base: {train: {epochs: 1}}        any configuration tree or dotted keys, may name a preset
methods: [cot, direct]
tasks: [synth]                    trained on; default: the base's
seeds: [0, 1, 2]                  default: the base's
settings:                         overrides by dotted key; default: none
  - {}
  - {train.lr: 1e-3}
evaluate: [synth]                 default: the task trained on
split: test
limit: 100                        default: all questions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import ConfigError, Positive, RunConfig, over, parse, stable_hash, tree
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import decoding_changes
from latbench.evaluation.records import MANIFEST, read_manifest
from latbench.runs.run import TRAIN, Run, load_run
from latbench.task import STRICT

Names = Annotated[list[str], Field(min_length=1)]


def _no_settings() -> list[dict[str, Any]]:
    return [{}]


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepConfig:
    """The content of a sweep's file; see the module docstring."""

    methods: Names
    """Methods to train."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Configuration tree of all runs; it may name a preset."""
    tasks: Names | None = None
    """Tasks to train on; null: that of `base`."""
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    """One run for each; null: the seed of `base`."""
    settings: Annotated[list[dict[str, Any]], Field(min_length=1)] = Field(default_factory=_no_settings)
    """One run for each mapping of dotted keys to values."""
    evaluate: Names | None = None
    """Tasks to evaluate on; null: the one trained on."""
    split: str = "test"
    """Split of these tasks."""
    limit: Positive | None = None
    """The first so many questions of each; null: all."""


def read_sweep(path: Path) -> SweepConfig:
    """The sweep in a YAML file. Raises: ConfigError: every error, one sentence each; ValueError: no such file."""
    return sweep_of(tree.read_yaml(path))


def sweep_of(given: Mapping[str, Any]) -> SweepConfig:
    """The sweep of the content of a file. Raises: ConfigError: every error, one sentence each."""
    config, errors = tree.validate("sweep", SweepConfig, given)
    if errors:
        raise ConfigError(errors)
    assert isinstance(config, SweepConfig)
    return config


def with_limit(sweep: SweepConfig, limit: int | None) -> SweepConfig:
    """A sweep whose evaluations ask the first so many questions.

    Args:
        sweep: its content.
        limit: number of questions; None: what the sweep says.
    Raises: ConfigError: the limit is below one.
    """
    if limit is None:
        return sweep
    if limit < 1:
        raise ConfigError([f"sweep.limit must be >= 1, got {limit}"])
    return replace(sweep, limit=limit)


def run_configs(sweep: SweepConfig) -> list[RunConfig]:
    """The grid, methods varying slowest.

    Raises: ConfigError: every error of every run, each sentence once.
    """
    base = tree.unfold(sweep.base)
    configs: list[RunConfig] = []
    errors: dict[str, None] = {}
    tasks: list[str | None] = [*sweep.tasks] if sweep.tasks else [None]
    seeds: list[int | None] = [*sweep.seeds] if sweep.seeds else [None]
    for method, task, settings, seed in product(sweep.methods, tasks, sweep.settings, seeds):
        names = {"method.name": method, "task.name": task, "seed": seed}
        upper = {name: value for name, value in names.items() if value is not None} | settings
        try:
            configs.append(parse(over(base, tree.unfold(upper))))
        except ConfigError as error:
            errors.update(dict.fromkeys(str(error).split("\n")))
    if errors:
        raise ConfigError(list(errors))
    return configs


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training run of a sweep with its evaluations.

    Args:
        decodings: changes of `generate.*` by dotted key; grid points that differ only there share one training.
        tasks: evaluated on, each with every decoding.
    """

    run: Run
    decodings: list[dict[str, Any]]
    tasks: list[str]

    def jobs(self, sweep: SweepConfig) -> list[EvalJob]:
        """All its evaluations. Raises: ValueError: unknown task, or values out of range."""
        return [self.job(sweep, task, changes) for changes in self.decodings for task in self.tasks]

    def job(self, sweep: SweepConfig, task: str, changes: Mapping[str, Any]) -> EvalJob:
        """One of its evaluations.

        Args:
            sweep: that asks for it.
            task: one of `tasks`.
            changes: one of `decodings`.
        Raises: ValueError: unknown task, or values out of range.
        """
        return EvalJob.of(self.run, task, split=sweep.split, limit=sweep.limit, changes=changes)

    def again(self) -> Member:
        """The same, with the run as it is on file by now."""
        folder = self.run.folder
        return replace(self, run=load_run(folder) if (folder / TRAIN).exists() else self.run)

    def open_jobs(self, sweep: SweepConfig) -> list[EvalJob]:
        """Its evaluations that have not ended. Raises: ValueError: as `jobs`."""
        jobs = self.jobs(sweep)
        return [j for j in jobs if not ((j.folder / MANIFEST).exists() and read_manifest(j.folder).complete)]


def members(sweep: SweepConfig, runs_dir: Path) -> list[Member]:
    """The grid's points, grouped by what is trained.

    Raises: ConfigError: every error of every run and of its evaluations, each sentence once.
    """
    groups: dict[str, list[RunConfig]] = {}
    for config in run_configs(sweep):
        groups.setdefault(config.run_id, []).append(config)
    found: list[Member] = []
    errors: dict[str, None] = {}
    for run_id, configs in groups.items():
        folder = runs_dir / run_id
        run = load_run(folder) if (folder / TRAIN).exists() else Run(folder, configs[0])
        decodings = {
            stable_hash(changes): changes for changes in (decoding_changes(run.config, other) for other in configs)
        }
        member = Member(run=run, decodings=list(decodings.values()), tasks=sweep.evaluate or [run.config.task_name])
        try:
            member.jobs(sweep)
        except ValueError as error:
            errors.update(dict.fromkeys(str(error).split("\n")))
        found.append(member)
    if errors:
        raise ConfigError(list(errors))
    return found


def open_members(members: Sequence[Member], sweep: SweepConfig) -> list[Member]:
    """Those whose training or one of whose evaluations has not ended.

    Args:
        members: of the sweep.
        sweep: its content.
    """
    return [member for member in members if not member.run.is_complete or member.open_jobs(sweep)]
