"""Train one run: configuration -> data -> method -> checkpoint, in a folder that can be resumed.

A run with a `start` first trains that one, in its own folder beside, or takes it from there. Where the method itself
needs no training, that is all: the run's checkpoint is the start's model under this method, its costs are the start's.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.config import ModelConfig, RunConfig, read_config
from latbench.config.identity import untrained_data
from latbench.config.tree import dump_yaml
from latbench.data import ContaminationReport, overlaps
from latbench.runs import environment
from latbench.runs.begun import BEGUN, begun_with, check_same, check_same_code, model_hashes, write_begun
from latbench.runs.lock import LOCK, is_main_process, locked, wait_for_all
from latbench.runs.owner import OWNER
from latbench.runs.run import CHECKPOINT, CONFIG, TRAIN, Run, load_run
from latbench.runs.train_questions import QUESTIONS, question_keys, run_of_model, write_train_questions
from latbench.task import Example, Task
from latbench.util.files import temporary, write_whole

if TYPE_CHECKING:
    from latbench.method import HeldOut, Method
    from latbench.model.backbone import Backbone
    from latbench.training.cost import TrainReport

NUM_HELD_OUT = 256


def train(
    config: RunConfig,
    *,
    runs_dir: Path | str = "runs",
    resume: bool = False,
    trust_remote_code: bool = False,
    folder: Path | None = None,
) -> Run:
    """Train to the end, or continue what was interrupted; a run of a released checkpoint is imported instead.

    Args:
        runs_dir: the run's folder is `<runs_dir>/<config.run_id>`, unless `folder` names another.
        resume: continue an unfinished run; a finished one is returned as it is. Always so for the run it starts from.
        trust_remote_code: run Python files that lie beside the model.
    Raises: ValueError: the folder holds a run and `resume` is off, another process writes it, data, model or method
        refuse, or the run was begun with other data, another model or other versions. OSError: the folder cannot be
        written.
    """
    folder = folder or Path(runs_dir) / config.run_id
    return _train_in(folder, config, resume=resume, trust_remote_code=trust_remote_code)


def import_run(config: RunConfig, *, runs_dir: Path | str, folder: Path | None = None) -> Run:
    """Carry an import out, or take the run that it made before.

    Args:
        config: as `plan_import` gives it.
        runs_dir: as in `train`.
        folder: as in `train`.
    Raises: ValueError: the folder holds another run, or this one with other settings of decoding; as `train`.
    """
    run = train(config, runs_dir=runs_dir, folder=folder, resume=True)
    if run.config.setting != config.setting:  # the run's name leaves generate.* out
        raise ValueError(
            f"{run.folder} has this release already, with other settings of generate.*; give them to `latbench eval`, "
            "or choose another --out"
        )
    return run


def _train_in(
    folder: Path, config: RunConfig, *, resume: bool, trust_remote_code: bool, for_another: bool = False
) -> Run:
    with locked(folder, for_another=for_another):
        run = Run(folder, config, trust_remote_code=trust_remote_code)
        if resume and run.is_complete:
            if config.imported is not None:
                _check_same_run(folder, config)
            check_same_code(folder, registry.own_code(config.method_name, config.task_name))
            return load_run(folder, trust_remote_code=trust_remote_code)
        if is_main_process():
            _check_free(folder, config, resume)
        with _leaving_nothing(folder):
            report = _train(run, resume)
        if is_main_process():
            write_whole(folder / TRAIN, json.dumps(report, indent=1) + "\n")
            _drop_resume_points(folder)
        wait_for_all()
        return run


def device_map_problem(config: RunConfig) -> str | None:
    """Why a run cannot be trained on a map of devices, as a sentence; None where its configuration names none.

    Args:
        config: of the run.
    """
    if config.model.device_map is None:
        return None
    return (
        f"model.device_map is {config.model.device_map!r}, which is for inference; leave it out, and train a model "
        "larger than one device through `accelerate launch` with FSDP2, see docs/scaling.md"
    )


def slow_precision(config: RunConfig) -> str | None:
    """The sentence where the run, or one it starts from, is trained in a number format that this CPU is slow at."""
    from latbench.model.loading import is_slow_in_bfloat16, resolve_device

    if config.start is not None and (sentence := slow_precision(config.start)) is not None:
        return f"start.{sentence}"
    if config.train.precision != "bfloat16" or not is_slow_in_bfloat16(resolve_device(config.model.device)):
        return None
    return "train.precision=bfloat16 is slow on this CPU, which has no units for it; float32 is tens of times as fast"


def base_run(config: RunConfig, *, runs_dir: Path | str = "runs", trust_remote_code: bool = False) -> Run:
    """A run without training: a method over a model as it comes, for training-free methods and untrained rows.

    Its folder is made by `keep`, with its first evaluation.

    Args:
        config: the method and the model; `start` is left out.
        runs_dir: the run's folder is `<runs_dir>/<config.base_id>`.
        trust_remote_code: run Python files that lie beside the model.
    Returns: the run; one that is on disk has its own settings of decoding, whatever `config` says.
    Raises: ValueError: the model is not at hand, or its files are not those that the run was made with.
    """
    folder, hashes = Path(runs_dir) / config.base_id, model_hashes(config.model)
    if not (folder / TRAIN).exists():
        told = {"trained": False, "train_data": untrained_data(hashes), "model": hashes}
        return Run(folder, replace(config, start=None), told=told, trust_remote_code=trust_remote_code)
    place = config.model
    run = load_run(folder, device=place.device, device_map=place.device_map, trust_remote_code=trust_remote_code)
    if changed := [name for name, sha256 in hashes.items() if run.report.get("model", {}).get(name) != sha256]:
        raise ValueError(
            f"{folder} was made with other files of the model {config.model.id} ({', '.join(changed[:3])}); remove "
            "that folder to evaluate the model as it is now"
        )
    return run


def keep(run: Run) -> None:
    """Make the folder of a run without training, unless it is there. Raises: OSError: it cannot be written."""
    if run.told is None:
        return
    with locked(run.folder, for_another=True):
        if not run.is_complete:
            write_whole(run.folder / CONFIG, _yaml(run.config))
            write_whole(run.folder / TRAIN, json.dumps(run.told) + "\n")


def _train_start(runs_dir: Path, config: RunConfig, trust_remote_code: bool) -> Run:
    """The run that `config` starts from, trained unless it is there."""
    assert config.start is not None
    try:
        run = _train_in(
            runs_dir / config.start.run_id,
            config.start,
            resume=True,
            for_another=True,
            trust_remote_code=trust_remote_code,
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
    if run.config.imported is not None:
        from latbench.runs.importing import import_weights

        write_whole(run.folder / CONFIG, _yaml(run.config))
        return import_weights(run.config, run.folder / CHECKPOINT)
    from latbench.model.loading import resolve_device
    from latbench.training import checkpoint
    from latbench.training.trainer import train_method

    config, folder = run.config, run.folder
    resolve_device(config.model.device)  # refuses an absent one before anything is read
    if (problem := device_map_problem(config)) is not None:
        raise ValueError(problem)
    task = registry.get_task_entry(config.task_name).cls(config.task)
    own_code = registry.own_code(config.method_name, config.task_name)
    examples, data = training_examples(task, config)
    start = None
    if config.start is not None:
        if not Run(folder.parent / config.start.run_id, config.start).is_complete:
            untrained = registry.get_method(config.method_name).cls(_backbone(run, config.model), config.method)
            _refuse_settings(config, untrained, task)
            del untrained
            gc.collect()  # the model makes place for the one that the start trains
        start = _train_start(folder.parent, config, run.trust_remote_code)
        data["data"] = _data_of_both(start, data["data"])
    with _told_of(start):
        source = config.model if start is None else _as_left_by(start, config.model)
        now = begun_with(examples, data["data"], model_hashes(source), own_code)
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
    _refuse_settings(config, method, task)
    parts = _trained_parts(config, start)
    if is_main_process():
        trained_on = _rows_of(task, config, examples) if method.stages() else []
        _write_beginning(run, trained_on, begun, start)
    report = train_method(
        method,
        examples,
        config.train,
        folder=folder,
        seed=config.seed,
        resume=resume,
        held_out=_held_out(task, config.train.split, examples),
        parts=parts,
    )
    if is_main_process():
        checkpoint.save(method, folder / CHECKPOINT, {"config": config.to_tree()}, helpers_of=parts)
    whole = {"trained": True, **data, "begun": begun, **_costs(report, start), "report": asdict(report)}
    return {**whole, "diagnostics": _diagnostics(folder), **_made_by()}


def _write_beginning(run: Run, trained_on: list[Example], begun: Mapping[str, Any], start: Run | None) -> None:
    """What a run keeps from before its first step: configuration, keys of its questions, data and versions."""
    write_whole(run.folder / CONFIG, _yaml(run.config))
    if not (run.folder / QUESTIONS).exists():  # a run that is resumed has the same data
        earlier = start.folder if start else run_of_model(run.config)
        write_train_questions(run.folder, question_keys(trained_on), earlier)
    write_begun(run.folder, begun)


def _made_by() -> dict[str, Any]:
    """Versions, commit, machine, command and time for `train.json`."""
    commit, dirty = environment.git_state()
    return {
        "versions": environment.versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": environment.hardware(),
        "command": environment.command_line(),
        "finished": environment.now(),
    }


def _refuse_settings(config: RunConfig, method: Method[Any], task: Task[Any]) -> None:
    """Raises: ValueError: a stage or a tracker that there is not, a model or a decoding that the method cannot do with,
    or supervision by answers that are not what a model should write."""
    from latbench.training.trainer import check_settings, chosen, stages_of

    stages = stages_of(method, config.train)
    check_settings(method, stages, config.train)
    method.rule(config.generate)
    taught = [stage.name for stage in chosen(stages, config.train) if not stage.rollouts]
    if taught and not task.answers_teach:
        raise ValueError(
            f"answers of task {task.name!r} judge what a model writes and are not what it should write, so the stage "
            f"{taught[0]!r} of method {method.name!r} cannot learn from them; train with train.rl and train.only=[rl]"
        )


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[None]:
    """Take away again what a start wrote that failed before its first step; what was there before stays."""
    before = set(folder.rglob("*")) if is_main_process() else set()
    try:
        yield
    except Exception:
        made = sorted(set(folder.rglob("*")) - before, reverse=True) if is_main_process() else []
        files = {path.name for path in made if path.is_file()}
        if (folder / CONFIG) not in before and files <= {CONFIG, QUESTIONS, BEGUN}:
            for path in made:
                path.unlink() if path.is_file() else path.rmdir()
        raise


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
    backbone = Backbone.load(source, seed=config.seed, name=config.model.name, trust_remote_code=run.trust_remote_code)
    backbone.config = config.model  # goes into the checkpoint: the recipe, not the place it was read from
    return backbone


def _trained_parts(config: RunConfig, start: Run | None) -> Path | None:
    """The checkpoint whose heads and helper models this run goes on with: that of a start by the same method, or the
    one that `model.id` names; None: it begins with fresh ones.

    Raises: ValueError: `model.id` is a checkpoint of another layout.
    """
    from latbench.model.source import CHECKPOINT_INFO
    from latbench.training import checkpoint

    if start is not None:
        return start.folder / CHECKPOINT if start.config.method_name == config.method_name else None
    folder = Path(config.model.id)
    if not (folder / CHECKPOINT_INFO).is_file():
        return None
    info = checkpoint.read_info(folder)
    if info["layout"] != config.model.layout:
        raise ValueError(
            f"model.id {config.model.id} is a checkpoint of layout {info['layout']!r}, but model.layout is "
            f"{config.model.layout!r}; set model.layout={info['layout']}"
        )
    return folder if info["method"] == config.method_name else None


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
    """The costs for `train.json`: `costs` in all, those of the start included, and `start` with its own."""
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
    """The rows to train on, and the facts about them for `train.json`.

    Rows that ask a test question, of the task or of one that it names in `overlaps`, are counted, and dropped where
    `train.drop_contaminated` says so.
    """
    split = config.train.split
    every = task.load(split)[: config.train.num_examples]
    found = task.fingerprint(split)
    shared = _shared(task, config, every)
    examples = _without(every, shared) if config.train.drop_contaminated else every
    num_shared = {name: overlap.num_train_overlapping for name, overlap in shared.items()}
    examples = [replace(example, question=task.prompt(example)) for example in examples]  # as in evaluation
    return examples, {
        "train_data": data_name(config.task_name, split, len(examples), found.sha256),
        "data": {f"{config.task_name}/{split}": asdict(found)},
        "num_contaminated": num_shared.pop(config.task_name, None),
        "dropped": config.train.drop_contaminated,
        **({"overlaps": num_shared} if num_shared else {}),
    }


def training_rows(task: Task[Any], config: RunConfig) -> list[Example]:
    """The rows to train on, as they stand in the data.

    Args:
        task: that the run is trained on.
        config: of the run.
    Raises: ValueError: the data are not at hand.
    """
    every = task.load(config.train.split)[: config.train.num_examples]
    return _without(every, _shared(task, config, every)) if config.train.drop_contaminated else every


def _shared(task: Task[Any], config: RunConfig, rows: list[Example]) -> dict[str, ContaminationReport]:
    """Overlaps of training rows with the test splits of the task and of those that it names, by name."""
    tests = {config.task_name: task, **{name: _as_it_comes(name) for name in task.overlaps}}
    return overlaps(rows, tests, required=config.train.drop_contaminated)


def _without(rows: list[Example], shared: Mapping[str, ContaminationReport]) -> list[Example]:
    for overlap in shared.values():
        rows = overlap.without(rows)
    return rows


def data_name(task_name: str, split: str, num_examples: int, sha256: str) -> str:
    """The training data as the identity of a cell names them.

    Args:
        task_name: of the data.
        split: of the task.
        num_examples: that are trained on.
        sha256: of the split.
    """
    return f"{task_name}/{split} n={num_examples} sha256={sha256[:8]}"


def _rows_of(task: Task[Any], config: RunConfig, examples: Sequence[Example]) -> list[Example]:
    """The rows of the data that the training examples were made of, with their questions as they stand there."""
    kept = {example.id for example in examples}
    return [row for row in task.load(config.train.split) if row.id in kept]


def _as_it_comes(name: str) -> Task[Any]:
    """A task with its default settings."""
    entry = registry.get_task_entry(name)
    task: Task[Any] = entry.cls(entry.config())
    return task


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


def _drop_resume_points(folder: Path) -> None:
    """Free what only a resume would read; the weights stand in the checkpoint, logs and reports of stages stay."""
    from latbench.training.resume import resume_points

    for stage in folder.glob("stages/*"):  # none where only the start was trained
        for point in resume_points(stage):
            shutil.rmtree(point)


def _check_free(folder: Path, config: RunConfig, resume: bool) -> None:
    """Refuse to write over another run, or into a folder that holds something else."""
    # a run that failed before its first step (no data, no model) has left nothing to lose
    written = (CONFIG, BEGUN, QUESTIONS)
    before_training = {LOCK, OWNER, *written, *(temporary(folder / name).name for name in written)}
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
    _check_same_run(folder, config)


def _check_same_run(folder: Path, config: RunConfig) -> None:
    """Refuse to go on with another run in the place of this one."""
    if (there := read_config(folder / CONFIG)).run_id == config.run_id:
        return
    if config.imported is not None:
        raise ValueError(f"{folder} holds another run ({there.run_id}); choose another --out, or remove it")
    raise ValueError(f"{folder} holds run {there.run_id}, not {config.run_id}; give the folder its name back")


def _yaml(config: RunConfig) -> str:
    return dump_yaml(config.to_tree())
