"""What the evaluations of a run asked, read back from their manifests: a measure of one need not be told it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latbench.config import RunConfig
from latbench.data.own_data import OwnDataConfig
from latbench.evaluation.asked import asked_config
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import EvalConfig, plan, task_identity
from latbench.evaluation.records import MANIFEST, Manifest, evaluations_in, read_manifest
from latbench.runs.run import CONFIG, EVAL, Run
from latbench.task import TaskConfig


def run_of(folder: Path) -> Path | None:
    """The folder of the run that an evaluation's folder lies in; None where it is no such folder."""
    place = folder if len(folder.parts) > 2 else folder.resolve()
    is_one = (folder / MANIFEST).is_file() and place.parent.name == EVAL and (place.parents[1] / CONFIG).is_file()
    return place.parents[1] if is_one else None


def settings_of(
    manifest: Manifest,
    *,
    split: str | None = None,
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[RunConfig, EvalConfig]:
    """The run that a manifest names, and what was asked of it.

    Args:
        manifest: of an evaluation.
        split: in place of its own.
        limit: likewise.
        changes: values by dotted key, in place of its own.
    Raises: ValueError: the manifest does not say it, or no longer fits this version.
    """
    stored = asked_config(manifest)
    config = RunConfig.from_stored({key: value for key, value in manifest.config.items() if key != "eval"})
    own: dict[str, Any] = {f"task.{key}": value for key, value in asdict(stored.task).items()}
    own |= {f"generate.{key}": value for key, value in asdict(config.generate).items()}
    own["seed"] = manifest.config["eval"].get("seed", manifest.seed)
    asked = plan(
        config,
        stored.task_name,
        split=split or manifest.config["eval"].get("split", stored.split),
        limit=limit or stored.limit,
        changes=own | dict(changes or {}),
    )
    return config, asked


def job_in(
    folder: Path,
    run: Run,
    *,
    split: str | None = None,
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> EvalJob:
    """The evaluation in a folder, or one that differs from it in what is said.

    Args:
        folder: of the evaluation, within that of the run.
        run: who answered.
        split: in place of its own.
        limit: likewise.
        changes: values by dotted key, in place of its own.
    Raises: ValueError: as `settings_of`, or this version would put the evaluation elsewhere.
    """
    manifest = read_manifest(folder)
    own = EvalJob(run, settings_of(manifest)[1])
    if own.folder.name != folder.resolve().name:
        raise ValueError(
            f"{folder} holds an evaluation that this version of latbench keeps in {own.folder}; evaluate the run again"
        )
    if split is None and limit is None and not changes:
        return own
    return EvalJob(run, settings_of(manifest, split=split, limit=limit, changes=changes)[1])


def job_on_file(
    run: Run,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> EvalJob:
    """The evaluation that a measure looks into: own data are asked as they were when the run was evaluated on them.

    Args:
        run: who answers.
        task: name of the task; None: the one that the run was trained on.
        split: of the task.
        limit: the first so many questions; None: all.
        changes: values by dotted key. Where one of them is about the task, all of them are as they are said.
    Raises: ValueError: as `EvalJob.of`, or the run was evaluated on these data in several other ways.
    """
    job = EvalJob.of(run, task, split=split, limit=limit, changes=changes)
    wanted = job.settings
    data = _data_of(wanted.task)
    is_said = any(key.startswith("task.") for key in changes or {})
    if data is None or is_said or data == _data_of(run.config.task):
        return job
    ways = {repr(task_identity(asked)): (path, asked) for path, asked in _asked_of(run) if _data_of(asked) == data}
    if not ways or repr(task_identity(wanted.task)) in ways:
        return job
    if len(ways) > 1:
        folders = ", ".join(str(path) for path, _ in ways.values())
        raise ValueError(
            f"{run.folder} was evaluated on {wanted.task_name} in {len(ways)} ways; name one of these as RUN: {folders}"
        )
    ((_, found),) = ways.values()
    assert isinstance(wanted.task, OwnDataConfig), "it has data"
    assert isinstance(found, OwnDataConfig), "likewise"
    return EvalJob(run, replace(wanted, task=replace(found, path=wanted.task.path)))  # it may have been moved since


def _asked_of(run: Run) -> list[tuple[Path, TaskConfig]]:
    """Folder and task of every evaluation of a run whose manifest can be read."""
    found = list[tuple[Path, TaskConfig]]()
    for folder in evaluations_in(run.folder / EVAL):
        try:
            found.append((folder, asked_config(read_manifest(folder)).task))
        except ValueError:
            continue
    return found


def _data_of(task: TaskConfig) -> object:
    """What tells own data from others, whatever is said of them: the hash of a file, or Hub id and split; else None."""
    if not isinstance(task, OwnDataConfig):
        return None
    return task.sha256 or (task.path, task.part)
