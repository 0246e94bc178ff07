"""Train one run: configuration -> data -> method -> checkpoint, in a folder that can be resumed.

A run with a `start` first trains that one, in its own folder beside, or takes it from there. Where the method itself
needs no training, that is all: the run's checkpoint is the start's model under this method, its costs are the start's.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.config import ModelConfig, RunConfig, read_config
from latbench.config.tree import dump_yaml
from latbench.data import ContaminationReport, contamination
from latbench.runs import environment
from latbench.runs.begun import BEGUN, begun_with, check_same, model_hashes, write_begun
from latbench.runs.lock import LOCK, is_main_process, locked, wait_for_all
from latbench.runs.run import CHECKPOINT, CONFIG, TRAIN, Run, load_run
from latbench.task import Example, Task
from latbench.util.files import temporary, write_whole

if TYPE_CHECKING:
    from latbench.method import HeldOut
    from latbench.model.backbone import Backbone
    from latbench.training.cost import TrainReport

NUM_HELD_OUT = 256


def train(
    config: RunConfig, *, runs_dir: Path | str = "runs", resume: bool = False, trust_remote_code: bool = False
) -> Run:
    """Train to the end, or continue what was interrupted.

    Args:
        runs_dir: the run's folder is `<runs_dir>/<config.run_id>`.
        resume: continue an unfinished run; a finished one is returned as it is. Always so for the run it starts from.
        trust_remote_code: run Python files that lie beside the model.
    Raises: ValueError: the folder holds a run and `resume` is off, another process writes it, data, model or method
        refuse, or the run was begun with other data, another model or other versions. OSError: the folder cannot be
        written.
    """
    return _train_in(Path(runs_dir), config, resume=resume, trust_remote_code=trust_remote_code)


def _train_in(
    runs_dir: Path, config: RunConfig, *, resume: bool, trust_remote_code: bool, for_another: bool = False
) -> Run:
    folder = runs_dir / config.run_id
    with locked(folder, for_another=for_another):
        run = Run(folder, config, trust_remote_code=trust_remote_code)
        if resume and run.is_complete:
            return load_run(folder, trust_remote_code=trust_remote_code)
        if is_main_process():
            _check_free(folder, config, resume)
        report = _train(run, resume)
        if is_main_process():
            write_whole(folder / TRAIN, json.dumps(report, indent=1) + "\n")
            _drop_resume_points(folder)
        wait_for_all()
        return run


def base_run(config: RunConfig, *, runs_dir: Path | str = "runs", trust_remote_code: bool = False) -> Run:
    """A run without training: a method over a model as it comes, for training-free methods and untrained rows.

    Raises: ValueError: the model is not at hand, or its files are not those that the run was made with.
    """
    config = replace(config, start=None)  # as it comes
    # the hash is of all settings, those of `generate` included: they are all that such runs differ in
    folder = Path(runs_dir) / f"base-{config.method_name}-{config.backbone}-{config.setting}-s{config.seed}"
    run = Run(folder, config, trust_remote_code=trust_remote_code)
    hashes = model_hashes(config.model)
    with locked(folder):
        if not run.is_complete:
            write_whole(folder / CONFIG, _yaml(config))
            write_whole(folder / TRAIN, json.dumps({"trained": False, "train_data": "none", "model": hashes}) + "\n")
        elif changed := [name for name, sha256 in hashes.items() if run.report.get("model", {}).get(name) != sha256]:
            raise ValueError(
                f"{folder} was made with other files of the model {config.model.id} ({', '.join(changed[:3])}); remove "
                "that folder to evaluate the model as it is now"
            )
    return run


def _train_start(runs_dir: Path, config: RunConfig, trust_remote_code: bool) -> Run:
    """The run that `config` starts from, trained unless it is there."""
    assert config.start is not None
    try:
        run = _train_in(
            runs_dir, config.start, resume=True, for_another=True, trust_remote_code=trust_remote_code
        )
    except _NothingToTrain:
        raise ValueError(
            f"start.method {config.start.method_name!r} needs no training, so nothing starts from it; set start=null"
        ) from None
    except ValueError as error:
        raise ValueError(f"start: {error}") from None
    gc.collect()  # the trainer's cycles would keep model and optimiser on the device
    return run


class _NothingToTrain(ValueError):
    """The method has no stages, and the run no start."""


def _train(run: Run, resume: bool) -> dict[str, Any]:
    from latbench.model.loading import resolve_device
    from latbench.training import checkpoint
    from latbench.training.trainer import train_method

    config, folder = run.config, run.folder
    resolve_device(config.model.device)  # refuses an absent one before anything is read
    task = registry.get_task_entry(config.task_name).cls(config.task)
    examples, data = training_examples(task, config)
    start = None if config.start is None else _train_start(folder.parent, config, run.trust_remote_code)
    if start is not None:
        data["data"] = _data_of_both(start, data["data"])
    with _told_of(start):
        source = config.model if start is None else _as_left_by(start, config.model)
        now = begun_with(examples, data["data"], model_hashes(source))
    begun = check_same(folder, now) or now
    with _told_of(start):
        backbone = _backbone(run, source)
    method = registry.get_method(config.method_name).cls(backbone, config.method)
    if not method.stages() and start is None:
        raise _NothingToTrain(
            f"method {config.method_name!r} needs no training; "
            f"use `latbench eval --model {config.model.id} --method {config.method_name}`"
        )
    if start is not None and not method.stages():
        data = {key: start.report[key] for key in data}
    if is_main_process():
        write_whole(folder / CONFIG, _yaml(config))
        write_begun(folder, begun)
    report = train_method(
        method,
        examples,
        config.train,
        folder=folder,
        seed=config.seed,
        resume=resume,
        held_out=_held_out(task, config.train.split, examples),
    )
    if is_main_process():
        checkpoint.save(method, folder / CHECKPOINT, {"config": config.to_tree()})
    commit, dirty = environment.git_state()
    return {
        "trained": True,
        **data,
        "begun": begun,
        **_costs(report, start),
        "report": asdict(report),
        "diagnostics": _diagnostics(folder),
        "versions": environment.versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": environment.hardware(),
        "command": environment.command_line(),
        "finished": environment.now(),
    }


def _as_left_by(start: Run, model: ModelConfig) -> ModelConfig:
    """The model that a run starts from: the checkpoint of its start."""
    from latbench.training import checkpoint

    folder = start.folder / CHECKPOINT
    return replace(
        model,
        id=str(folder),
        revision=None,
        weights="pretrained",
        chat_template=checkpoint.read_info(folder)["chat_template"],
    )


def _backbone(run: Run, source: ModelConfig) -> Backbone:
    """The language model as it comes, or as the run it starts from left it; with fresh adapters where asked for."""
    from latbench.model.backbone import Backbone

    config = run.config
    backbone = Backbone.load(
        source, seed=config.seed, name=config.model.name, trust_remote_code=run.trust_remote_code
    )
    backbone.config = config.model  # goes into the checkpoint: the recipe, not the place it was read from
    return backbone


@contextmanager
def _told_of(start: Run | None) -> Iterator[None]:
    """Around what reads the checkpoint of a start: an error says whose it is, and how to make it anew."""
    try:
        yield
    except ValueError as error:
        if start is None:
            raise
        raise ValueError(f"start: {error}; or remove {start.folder} to train it anew") from None


def _costs(report: TrainReport, start: Run | None) -> dict[str, Any]:
    """What stands in `train.json`: `costs` in all, those of the start included, and `start` with its own."""
    from latbench.training.cost import TrainReport

    if start is None:
        return {"costs": _numbers(report), "start": None}
    spent = {key: start.report[key] for key in ("costs", "git_commit", "git_dirty")}
    total = TrainReport.total([TrainReport(**spent["costs"]), report])
    return {"costs": _numbers(total), "start": {"run": start.folder.name, **spent}}


def _numbers(report: TrainReport) -> dict[str, float]:
    return {key: value for key, value in asdict(report).items() if type(value) in (int, float)}


def _data_of_both(start: Run, own: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of the data of a run and its start. Raises: ValueError: the files have changed in between."""
    before: dict[str, Any] = start.report["data"]
    for name, found in own.items():
        if name in before and before[name]["sha256"] != found["sha256"]:
            raise ValueError(
                f"start: {start.folder} was trained on another {name} than is there now; "
                "remove that folder to train it anew"
            )
    return {**before, **own}


def training_examples(task: Task[Any], config: RunConfig) -> tuple[list[Example], dict[str, Any]]:
    """The rows to train on, and what stands about them in `train.json`.

    Rows that ask one of the task's test questions are counted, and dropped where `train.drop_contaminated` says so.
    """
    split = config.train.split
    examples = task.load(split)[: config.train.num_examples]
    found = task.fingerprint(split)
    overlap = _overlap(task, examples, required=config.train.drop_contaminated)
    if config.train.drop_contaminated and overlap is not None:
        examples = overlap.without(examples)
    examples = [replace(example, question=task.prompt(example)) for example in examples]  # as in evaluation
    return examples, {
        "train_data": f"{config.task_name}/{split} n={len(examples)} sha256={found.sha256[:8]}",
        "data": {f"{config.task_name}/{split}": asdict(found)},
        "num_contaminated": None if overlap is None else overlap.num_train_overlapping,
        "dropped": config.train.drop_contaminated,
    }


def _held_out(task: Task[Any], split: str, examples: Sequence[Example]) -> HeldOut:
    """Rows a method may report on: the first of the validation split, else of what it trains on."""
    from latbench.method import HeldOut

    if "validation" in task.splits and split != "validation":
        with suppress(ValueError):  # not at hand
            rows = [replace(row, question=task.prompt(row)) for row in task.load("validation")[:NUM_HELD_OUT]]
            return HeldOut(task=task, split="validation", examples=rows)
    return HeldOut(task=task, split=split, examples=examples[:NUM_HELD_OUT])


def _diagnostics(folder: Path) -> dict[str, Any]:
    """What the method wrote about its own training: the `diagnostics.json` of its stages, in order."""
    from latbench.method import DIAGNOSTICS

    found: dict[str, Any] = {}
    for path in sorted(folder.glob(f"stages/*/{DIAGNOSTICS}")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def _overlap(task: Task[Any], examples: list[Example], *, required: bool) -> ContaminationReport | None:
    """Overlap with the task's test split; None where it has none at hand and nobody asked to drop the rows."""
    if "test" not in task.splits and not required:
        return None
    try:
        return contamination(examples, task.load("test"))
    except ValueError:  # the training data are here, the test data are not
        if required:
            raise
        return None


def _drop_resume_points(folder: Path) -> None:
    """Free what only a resume would read; the weights stand in the checkpoint, logs and reports of stages stay."""
    from latbench.training.resume import resume_points

    for stage in folder.glob("stages/*"):  # none where only the start was trained
        for point in resume_points(stage):
            shutil.rmtree(point)


def _check_free(folder: Path, config: RunConfig, resume: bool) -> None:
    """Refuse to write over another run, or into a folder that holds something else."""
    # a run that failed before its first step (no data, no model) has left nothing to lose
    before_training = {LOCK, CONFIG, BEGUN, *(temporary(folder / name).name for name in (CONFIG, BEGUN))}
    present = [path.name for path in folder.iterdir() if path.name not in before_training]
    if not present:
        return
    if not (folder / CONFIG).exists():
        raise ValueError(
            f"{folder} holds files that are no run ({', '.join(sorted(present)[:3])}); choose another --runs-dir"
        )
    if not resume:
        state = "is finished" if (folder / TRAIN).exists() else "is unfinished"
        raise ValueError(
            f"run {folder} exists and {state}; continue it with --resume, or remove the folder to train anew"
        )
    if (there := read_config(folder / CONFIG)).run_id != config.run_id:
        raise ValueError(f"{folder} holds run {there.run_id}, not {config.run_id}; give the folder its name back")


def _yaml(config: RunConfig) -> str:
    return dump_yaml(config.to_tree())
