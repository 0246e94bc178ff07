"""The public Python names, with plain arguments: train, import_release, evaluate, load_run, get_method, get_task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.config import ConfigError, parse, tree
from latbench.config.own_data import with_own_data
from latbench.evaluation.evaluate import evaluate_all
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import Evaluation, read_evaluation
from latbench.runs.run import Run, load_run
from latbench.runs.train import train as train_run
from latbench.task import Task

if TYPE_CHECKING:
    from latbench.method import Method

__all__ = ["evaluate", "get_method", "get_task", "import_release", "load_run", "train"]


def train(
    method: str,
    *,
    task: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    runs_dir: Path | str = "runs",
    resume: bool = False,
    trust_remote_code: bool = False,
) -> Run:
    """Train a method, by default on `synth` with the embedded tiny backbone.

    Args:
        method: a registered name, or the path of a Python file that registers one.
        preset: one of `latbench list presets`; model: a Hugging Face id or a local path.
        settings: values by dotted key, such as `{"train.lr": 1e-4}`.
        resume: continue an unfinished run; a finished one is returned as it is.
        trust_remote_code: run Python files that lie beside the model; of this call alone.
    Raises: ValueError: settings are unknown or out of range (all reported), or the run exists and `resume` is off.
    """
    given: tree.Tree = {}
    method, task = registry.from_file("method", method), task and registry.from_file("task", task)
    chosen = {"seed": seed, "method.name": method, "task.name": task, "model.id": model, **(settings or {})}
    for key, value in chosen.items():
        if value is not None or key in (settings or {}):
            tree.put(given, key, value)
    config = parse(given, preset=preset)
    return train_run(config, runs_dir=runs_dir, resume=resume, trust_remote_code=trust_remote_code)


def import_release(
    source: Path | str,
    *,
    format: str | None = None,
    base: Path | str | None = None,
    revision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs_dir: Path | str = "runs",
) -> Run:
    """Make a run of a released checkpoint; what is imported already is returned as it is.

    Args:
        source: a folder, a file or a Hugging Face id; revision: a commit of the latter, None: the newest.
        format: name of an importer; None: the one that recognises the source.
        base: the base model, folder or id, where the release has adapters alone; None: the one it names.
        settings: values by dotted key, in place of what the importer says.
    Raises: ValueError: not at hand, of no known format, not whole, or something is missing that only the user can say.
    """
    from latbench.runs.importing import plan_import

    below = None if base is None else str(base)
    plan = plan_import(str(source), format=format, base=below, revision=revision, settings=settings)
    return train_run(plan.config, runs_dir=runs_dir, resume=True)


def evaluate(
    run: Run | Path | str,
    tasks: str | Sequence[str] | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> list[Evaluation]:
    """Evaluate a run on tasks (its own by default); what is complete is read, what is begun is continued.

    Args:
        limit: the first so many questions of each task.
        settings: values by dotted key: `generate.*`, `task.*`, `seed`.
        trust_remote_code: run Python files that lie beside the model of a run given by its folder; of this call alone.
    Raises: ValueError: no such run or task, or a setting that training has fixed.
    """
    given = run if isinstance(run, Run) else load_run(run, trust_remote_code=trust_remote_code)
    names = [tasks] if isinstance(tasks, str) else tasks or [given.config.task_name]
    names = [registry.from_file("task", name) for name in names]
    jobs = [EvalJob.of(given, name, split=split, limit=limit, changes=settings) for name in names]
    return [read_evaluation(folder) for folder in evaluate_all(jobs)]


def get_method(name: str) -> type[Method[Any]]:
    """The registered method's class. Raises: ValueError: unknown, with the nearest name."""
    return registry.get_method(name).cls


def get_task(name: str, **settings: Any) -> Task[Any]:
    """A task, ready to load and score.

    Args:
        name: a registered name, a data file, a Hub id, or a Python file that registers a task.
        settings: `task.*`.
    Raises: ValueError: unknown name, no such file, or settings unknown or out of range.
    """
    section = with_own_data({"name": registry.from_file("task", name), **settings})
    entry = registry.get_task_entry(str(section.pop("name")))
    config, errors = tree.validate("task", entry.config, section)
    if errors:
        raise ConfigError(errors)
    task: Task[Any] = entry.cls(config)
    return task
