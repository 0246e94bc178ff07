"""The first leaderboard: a few methods on `synth` with the embedded backbone, trained and evaluated from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import RunConfig, parse, tree
from latbench.evaluation.asked import asked
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.report.leaderboard import LeaderboardResult, leaderboard
from latbench.report.picture import SUFFIXES, plot
from latbench.runs.train import train


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What the command leaves behind: evaluation folders, their table, and the files written."""

    evaluations: list[Path]
    board: LeaderboardResult
    paths: tuple[Path, ...]


def quickstart_configs(*, every: bool, seeds: Sequence[int], settings: Mapping[str, Any]) -> list[RunConfig]:
    """One run per method and seed, on the methods' tiny presets; those that others start from come first.

    Args:
        every: all methods with a tiny preset, not only those the command promises.
        settings: values by dotted key; `train.*` holds for the runs these start from, too.
    """
    names = [name for name in registry.method_names() if "tiny" in tree.presets(name)]
    chosen = sorted(name for name in names if every or getattr(registry.get_method(name).cls, "in_quickstart", False))
    of_seeds = [[_config(method, seed, settings) for method in chosen] for seed in seeds]
    return [config for configs in of_seeds for config in sorted(configs, key=lambda config: len(_starts(config)))]


def _config(method: str, seed: int, settings: Mapping[str, Any]) -> RunConfig:
    given: dict[str, Any] = {"seed": seed, "method.name": method}
    config = parse(tree.unfold({**given, **settings}))
    training = {key: value for key, value in settings.items() if key.startswith("train.")}
    of_starts = {start + key: value for start in _starts(config) for key, value in training.items()}
    return parse(tree.unfold({**given, **of_starts, **settings}))


def _starts(config: RunConfig) -> list[str]:
    """`start.`, `start.start.` ... for each run beneath this one."""
    return [] if config.start is None else ["start.", *(f"start.{deeper}" for deeper in _starts(config.start))]


def quickstart(configs: Sequence[RunConfig], *, runs_dir: Path, out: Path, limit: int | None = None) -> Quickstart:
    """Train and evaluate each run unless that is done, then write table and plot of these runs alone."""
    folders = []
    for config in configs:
        run = train(config, runs_dir=runs_dir, resume=True)
        folders.append(evaluate(EvalJob.of(run, config.task_name, limit=limit)))
    board = leaderboard(folders, ("md", "html"), out, asked=asked)
    pictures = [out / f"accuracy_vs_length{suffix}" for suffix in SUFFIXES]
    for picture in pictures:
        plot(board.cells, picture)
    return Quickstart(evaluations=folders, board=board, paths=(*board.paths, *pictures))
