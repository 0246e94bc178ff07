"""What is asked of a run: which questions, how they are decoded and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from latbench import registry
from latbench.config import CARRIED_OUT, GenerateConfig, RunConfig, decoding_identity, tree
from latbench.config import own_data as own_data_of
from latbench.evaluation.records import is_encodable
from latbench.task import Example, Task, TaskConfig

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One evaluation.

    Args:
        task_name: registered name of the task.
        task: its settings, which say how answers are scored.
        split: of the task.
        limit: the first so many questions; None: all.
        generate: decoding.
        seed: of its random draws.
    """

    task_name: str
    task: TaskConfig
    split: str
    limit: int | None
    generate: GenerateConfig
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """What changes the answers to the questions or the verdicts on them."""
        return {"task": task_identity(self.task), "generate": decoding_identity(self.generate), "seed": self.seed}


def task_identity(task: TaskConfig) -> dict[str, Any]:
    """The settings of a task, without what changes no result."""
    return {key: value for key, value in asdict(task).items() if f"task.{key}" not in CARRIED_OUT}


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
        task_name: a registered name, the run's own, or own data as a user names them.
        changes: values by dotted key that replace the run's own `generate.*`, `task.*` and `seed`.
    Raises: ValueError: unknown task, an override of something that training has fixed, or values out of range.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be >= 1, got {limit}; leave it out to ask all questions")
    upper = tree.unfold(changes or {})
    for key, _ in tree.flatten(upper):
        if key == "task.name":
            raise ValueError("task.name cannot be set in an evaluation; choose its tasks with --tasks")
        if key.split(".")[0] not in ("seed", "task", "generate"):
            raise ValueError(
                f"{key} is fixed by the run's training; an evaluation takes generate.*, task.* and seed only"
            )
    own = config.to_tree()
    task = own["task"] if task_name == config.task_name else _other_task(own["task"], task_name, upper.get("task", {}))
    changed = RunConfig.from_tree(tree.merge(own | {"task": task}, upper))
    return EvalConfig(
        task_name=changed.task_name,
        task=changed.task,
        split=split,
        limit=limit,
        generate=changed.generate,
        seed=changed.seed,
    )


def usual_plan(config: RunConfig, task_name: str) -> EvalConfig:
    """The evaluation of a run on a task, with settings that nobody changed.

    Args:
        config: of the run.
        task_name: as an `EvalConfig` names it.
    """
    own = config.to_tree()
    changed = config if task_name == config.task_name else RunConfig.from_tree(own | {"task": {"name": task_name}})
    return EvalConfig(
        task_name=task_name, task=changed.task, split="test", limit=None, generate=changed.generate, seed=changed.seed
    )


def _other_task(own: tree.Tree, named: str, given: tree.Tree) -> tree.Tree:
    """The section `task` of a task that is named; other own data are asked as the run's own were, but for their columns
    where some are named.

    Args:
        own: the run's section.
        named: the task, as the user names it.
        given: what the user says of it.
    """
    if not own_data_of.is_named(named) or given.get("path"):
        return {"name": named}
    section = own_data_of.with_own_data({"name": named})
    if not registry.is_own_data(own["name"]):
        return section
    if section["name"] == own["name"] and own["sha256"] and own["sha256"] == section.get("sha256"):
        return tree.merge(own, section)
    alike = own_data_of.without_place(own)
    if given.get("columns") or section.get("columns"):
        del alike["columns"]
    return tree.merge(alike, section)


def decoding_changes(own: RunConfig, other: RunConfig) -> dict[str, Any]:
    """By dotted key, the `generate.*` of one configuration that another does not have.

    Args:
        own: of the run, whose settings are the usual ones.
        other: the one whose decoding is wanted.
    """
    usual, wanted = (dict(tree.flatten(config.to_tree()["generate"])) for config in (own, other))
    return {f"generate.{key}": value for key, value in wanted.items() if usual.get(key, _ABSENT) != value}


def check_samples(config: RunConfig, wanted: EvalConfig) -> None:
    """Raises: ValueError: several answers to a question are asked for, and all would be the same."""
    if wanted.generate.samples > 1 and not config.method.draws(wanted.generate):
        raise ValueError(
            f"generate.samples is {wanted.generate.samples}, but method {config.method_name!r} draws nothing at "
            "generate.temperature=0, so that all answers to a question would be equal; "
            "set generate.temperature above 0, or generate.samples=1"
        )


def questions(settings: EvalConfig) -> tuple[Task[Any], list[Example]]:
    """The task, and its examples as they are asked: the question is the task's prompt.

    Raises: ValueError: unknown split, the data are not at hand, or an id cannot be encoded.
    """
    task: Task[Any] = registry.get_task_entry(settings.task_name).cls(settings.task)
    examples = task.load(settings.split)[: settings.limit]
    if wrong := [example.id for example in examples if not is_encodable(example.id)]:
        raise ValueError(f"{task.name}/{settings.split}: id {wrong[0]!r} is no text that can be encoded; rename it")
    return task, [replace(example, question=task.prompt(example)) for example in examples]
