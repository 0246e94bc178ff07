"""What is asked of a run: which questions, how they are decoded and scored, and where the records go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latbench.config import GenerateConfig, RunConfig, decoding_identity, stable_hash, tree
from latbench.runs.run import EVAL, Run
from latbench.task import TaskConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One evaluation.

    Args:
        task_name, task, split: the questions and how answers are scored.
        limit: the first so many questions; None: all.
        generate: decoding; seed: of its random draws.
    """

    task_name: str
    task: TaskConfig
    split: str
    limit: int | None
    generate: GenerateConfig
    seed: int


def plan(
    config: RunConfig,
    task_name: str,
    *,
    split: str = "test",
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> EvalConfig:
    """The evaluation of a run on a task.

    Args:
        changes: values by dotted key that replace the run's own `generate.*`, `task.*` and `seed`.
    Raises: ValueError: unknown task, an override of something that training has fixed, or values out of range.
    """
    upper: tree.Tree = {}
    for key, value in (changes or {}).items():
        tree.put(upper, key, value)
    for key, _ in tree.flatten(upper):
        if key == "task.name":
            raise ValueError("task.name cannot be set in an evaluation; choose its tasks with --tasks")
        if key.split(".")[0] not in ("seed", "task", "generate"):
            raise ValueError(
                f"{key} is fixed by the run's training; an evaluation takes generate.*, task.* and seed only"
            )
    own = config.to_tree()
    task = own["task"] if task_name == config.task_name else {"name": task_name}
    changed = RunConfig.from_tree(tree.merge(own | {"task": task}, upper))
    return EvalConfig(
        task_name=task_name,
        task=changed.task,
        split=split,
        limit=limit,
        generate=changed.generate,
        seed=changed.seed,
    )


def check_samples(config: RunConfig, wanted: EvalConfig) -> None:
    """Raises: ValueError: several answers to a question are asked for, and all would be the same."""
    if wanted.generate.samples > 1 and not config.method.draws(wanted.generate):
        raise ValueError(
            f"generate.samples is {wanted.generate.samples}, but method {config.method_name!r} draws nothing at "
            "generate.temperature=0, so that all answers to a question would be equal; "
            "set generate.temperature above 0, or generate.samples=1"
        )


def eval_folder(run: Run, wanted: EvalConfig) -> Path:
    """`<run>/eval/<task>-<split>`, with the limit and a hash of whatever differs from the run's own settings."""
    usual = plan(run.config, wanted.task_name)
    parts = [wanted.task_name, wanted.split]
    if wanted.limit is not None:
        parts.append(f"first{wanted.limit}")
    if _identity(wanted) != _identity(usual):
        parts.append(stable_hash(_identity(wanted)))
    return run.folder / EVAL / "-".join(parts)


def _identity(wanted: EvalConfig) -> dict[str, Any]:
    """What changes an evaluation's answers or verdicts."""
    return {"task": asdict(wanted.task), "generate": decoding_identity(wanted.generate), "seed": wanted.seed}
