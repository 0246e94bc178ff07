"""Training: a method's stages walked in order, one `transformers.Trainer` and one folder per stage.

    <folder>/stages/<index>-<name>/checkpoint-<step>/   the latest resume point; after the stage its weights alone
                                   log.jsonl            loss terms, learning rate, gradient norm
                                   report.json          costs; its presence says that the stage is complete

Killed at any moment, `resume=True` ends with the same bits in weights, log and counts as an undisturbed run.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from latbench.config import RLConfig, TrainConfig
from latbench.method import HeldOut, Method, Stage
from latbench.registry import unknown
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.cost import TrainReport
from latbench.training.resume import OPTIMIZER, check_whole, cut_log, load_weights, resume_points, shrink, step_of
from latbench.training.rl.policy_trainer import PolicyModule, RolloutTrainer, check_method, frozen_copy
from latbench.training.rl.rollouts import RolloutSource
from latbench.training.sharded import Blueprint, is_asked_for, refuse_unsupported
from latbench.training.stage_plan import StagePlan
from latbench.training.stage_trainer import LOG, MicroBatches, StageModule, StageTrainer
from latbench.util.files import write_whole
from latbench.util.progress import progress
from latbench.util.signals import handling

REPORT = "report.json"
PATIENCE = timedelta(days=1)  # of the processes, while the main one prepares a stage; NCCL would give up in ten minutes
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine_with_min_lr"}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the stages of one call share."""

    method: Method[Any]
    config: TrainConfig
    folder: Path
    seed: int
    kept: frozenset[str]
    held_out: HeldOut | None


def train_method(
    method: Method[Any],
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    folder: Path,
    seed: int,
    resume: bool = False,
    held_out: HeldOut | None = None,
    parts: Path | None = None,
) -> TrainReport:
    """Train a method through its stages; it is left in evaluation mode with the last stage's weights.

    Args:
        folder: of the run; the stages' folders go to `<folder>/stages`.
        seed: of data order and dropout; fresh weights have the seed of whoever made them.
        resume: continue what is in `folder`; complete stages are skipped. The method must have been built alike.
        held_out: for what a method reports about its own training, and the task that rewards rollouts.
        parts: checkpoint of the same method whose heads and helper models training goes on with; None: fresh ones.
    Returns: the costs of all sessions; nothing for a training-free method.

    Raises:
        ValueError: no example fits, unknown stage or tracker, or `folder` holds other training.
        KeyboardInterrupt: after Ctrl-C, with a resume point at the last whole step (one process; with several the
            last regular one remains).
    """
    method.seed, method.precision, method.held_out = seed, config.precision, held_out
    every = stages_of(method, config)
    stages = chosen(every, config)
    if not all(stage.rollouts for stage in stages):
        method.build_auxiliary()
    _check(method, every, config)
    if parts is not None:
        checkpoint.load_parts(method, parts)
    elif len(method.heads) and all(stage.rollouts for stage in stages) and stages:
        raise ValueError(
            f"train.only leaves out the stages that train the heads of method {method.name!r}; start from a run of it "
            f"(start.method={method.name}), or set train.only=null"
        )
    run = _Run(
        method=method, config=config, folder=folder / "stages", seed=seed, kept=_kept(method, stages), held_out=held_out
    )
    on_cpu = method.backbone.device.type == "cpu"
    refuse_unsupported(
        on_cpu=on_cpu, keeps_moments=not config.reset_optimizer, decodes=any(stage.rollouts for stage in stages)
    )
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    if state.is_main_process and not resume and run.folder.exists() and any(run.folder.iterdir()):
        raise ValueError(f"{run.folder} already holds training; resume it (--resume) or choose another folder")
    reports: list[TrainReport] = []
    for index, stage in enumerate(stages):
        budget = None if config.max_steps is None else config.max_steps - sum(r.optimiser_steps for r in reports)
        if budget == 0:
            break
        first_epoch = sum(ceil(report.epochs) for report in reports)
        reports.append(_train_stage(run, index, stage, examples, budget=budget, first_epoch=first_epoch))
    method.eval()
    return TrainReport.total(reports)


def stages_of(method: Method[Any], config: TrainConfig) -> list[Stage]:
    """The method's supervised stages and, where it is asked for, that of reinforcement learning.

    Raises: ValueError: the method cannot be reinforced.
    """
    if config.rl is None:
        return method.stages()
    check_method(method, config.rl)
    return [*method.stages(), replace(method.rl_stage(), steps=config.rl.steps, lr=config.rl.lr)]


def chosen(stages: Sequence[Stage], config: TrainConfig) -> list[Stage]:
    """Those that are trained: all, or the ones that `train.only` names."""
    return [stage for stage in stages if config.only is None or stage.name in config.only]


def check_settings(method: Method[Any], stages: Sequence[Stage], config: TrainConfig) -> None:
    """Refuse what can be known of the settings before anything is trained.

    Args:
        method: on the model as it comes.
        stages: all of the method, see `stages_of`.
        config: the settings.
    Raises: ValueError: a stage or a tracker that there is not, or a model that the method cannot learn with.
    """
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names), f"stage names must differ: {names}"
    for name in config.stages:
        if name not in names:
            raise unknown("stage in train.stages", name, names)
    for name in config.only or ():
        if name not in names:
            raise unknown("stage in train.only", name, names)
    for name in config.trackers:
        if name not in INTEGRATION_TO_CALLBACK:
            raise unknown("tracker in train.trackers", name, INTEGRATION_TO_CALLBACK)
        if name not in get_available_reporting_integrations():
            package = name.replace("_", "-")
            raise ValueError(f"train.trackers names {name!r}, which is not installed; run `pip install {package}`")
    if those := chosen(stages, config):
        method.check_training(those)


def _check(method: Method[Any], stages: Sequence[Stage], config: TrainConfig) -> None:
    check_settings(method, stages, config)
    if not config.reset_optimizer:
        trained = [[name for name, _ in method.trainable_parameters(stage)] for stage in stages]
        for stage, those in zip(stages, trained, strict=True):
            if those != trained[0]:
                raise ValueError(
                    f"train.reset_optimizer must be true: stage {stage.name!r} trains other parameters than "
                    f"{stages[0].name!r}, whose moments it would take over"
                )
    if config.auxiliary_lr is not None and not method.auxiliary:
        raise ValueError(f"train.auxiliary_lr is set, but method {method.name!r} trains no helper model; leave it null")


def _kept(method: Method[Any], stages: Sequence[Stage]) -> frozenset[str]:
    """Names of the tensors that any stage may change, tied ones once: what a resume point must hold."""
    trained = {name for stage in stages for name, _ in method.trainable_parameters(stage)}
    changed = tuple(prefix for stage in stages for prefix in stage.changed)
    trained |= {name for name, _ in method.named_parameters() if name.startswith(changed)}
    return frozenset(trained | ({name for name, _ in method.named_buffers()} & method.state_dict().keys()))


def _train_stage(
    run: _Run, index: int, stage: Stage, examples: Sequence[Example], *, budget: int | None, first_epoch: int
) -> TrainReport:
    """Run or continue one stage; a complete one is loaded.

    Args:
        budget: optimiser steps left, None: no cap.
        first_epoch: passes of the stages before.
    """
    state = PartialState()
    folder = run.folder / f"{index}-{stage.name}"
    if (folder / REPORT).exists():
        point = next(iter(resume_points(folder)), None)
        if point is not None:
            load_weights(run.method, point, run.kept)
        elif not _later_is_complete(run, index):
            raise ValueError(f"{folder} is complete but its weights are gone; remove {run.folder.parent} to train anew")
        return TrainReport(**json.loads((folder / REPORT).read_text(encoding="utf-8")))
    plan = StagePlan.of(
        run.method, stage, index, examples, run.config,
        seed=run.seed, num_processes=state.num_processes, budget=budget, first_epoch=first_epoch,
    )  # fmt: skip
    with state.main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
        run.method.prepare(stage, plan.examples, folder)
    set_trainable(run.method, stage)
    blueprint = Blueprint(run.method) if is_asked_for() else None
    trainer = _stage_trainer(run, plan, folder)
    try:
        point = next(iter(resume_points(folder)), None)
        if point is None and state.is_main_process:
            cut_log(folder / LOG, -1)  # of a session that was killed before its first resume point
        with _interruptible(trainer), _progress(trainer, stage, done=0 if point is None else step_of(point)):
            trainer.train(resume_from_checkpoint=None if point is None else str(point))
    finally:
        trainer.close()
    if blueprint is not None:
        blueprint.fill(run.method)
    report = trainer.current_report()
    if report.optimiser_steps == trainer.args.max_steps:
        trainer.finish(next(iter(resume_points(folder))))
        if state.is_main_process:
            _finish(folder, report, optimizer=not run.config.reset_optimizer)
        state.wait_for_everyone()
    if trainer.interrupted:
        raise KeyboardInterrupt
    return report


def _later_is_complete(run: _Run, index: int) -> bool:
    """Whether a stage after this one is: then the weights here are not needed, and were removed."""
    return any(int(report.parent.name.split("-")[0]) > index for report in run.folder.glob(f"*/{REPORT}"))


def set_trainable(method: Method[Any], stage: Stage) -> None:
    """Let gradients flow to what the stage trains, and to nothing else."""
    method.requires_grad_(False)
    for _, parameter in method.trainable_parameters(stage):
        parameter.requires_grad_(True)


def _stage_trainer(run: _Run, plan: StagePlan, folder: Path) -> StageTrainer:
    state = PartialState()
    args = _arguments(run, plan, folder)
    shared: dict[str, Any] = {
        "plan": plan,
        "kept": run.kept,
        "auxiliary_lr": run.config.auxiliary_lr,
        "moments": None if run.config.reset_optimizer or plan.index == 0 else _moments(run, plan.index - 1),
    }
    if not plan.stage.rollouts:
        batches = MicroBatches(run.method, plan, process=state.process_index)
        return StageTrainer(StageModule(run.method, plan.stage), args, batches, **shared)
    rl = run.config.rl
    assert isinstance(rl, RLConfig)
    assert run.held_out is not None, "reinforcement learning needs a task that scores answers"
    source = RolloutSource(
        run.method,
        plan.examples,
        run.held_out.task,
        rl,
        seed=run.seed,
        parts=plan.parts_per_process,
        process=state.process_index,
        num_processes=state.num_processes,
        reference=frozen_copy(run.method) if rl.kl > 0 else None,  # the method as it is now
        folder=folder,
    )
    module = PolicyModule(run.method, plan.stage, rl)
    return RolloutTrainer(module, args, source=source, held_out=run.held_out, **shared)


def _moments(run: _Run, index: int) -> Path:
    """The optimiser states that a complete stage has left."""
    found = sorted(run.folder.glob(f"{index}-*/*/{OPTIMIZER}"))
    if not found:
        raise ValueError(
            f"{run.folder} holds no optimiser states of its stage {index}, which train.reset_optimizer=false goes on "
            f"with; remove {run.folder.parent} to train anew"
        )
    check_whole(found[-1].parent, only=OPTIMIZER)
    return found[-1]


def _arguments(run: _Run, plan: StagePlan, folder: Path) -> TrainingArguments:
    """The Trainer's own settings; the schedule of reinforcement learning is that of `train.rl`."""
    config, device = run.config, run.method.backbone.device
    if plan.stage.rollouts:
        assert config.rl is not None
        config = replace(config, schedule=config.rl.schedule, warmup_ratio=config.rl.warmup_ratio)
    args = TrainingArguments(
        output_dir=str(folder),
        run_name=f"{run.folder.parent.name}/{plan.stage.name}",
        max_steps=plan.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=plan.parts_per_process,
        learning_rate=plan.lr,
        lr_scheduler_type=SCHEDULES[config.schedule],
        lr_scheduler_kwargs={"min_lr_rate": config.min_lr_ratio} if config.schedule == "cosine" else {},
        warmup_steps=ceil(config.warmup_ratio * plan.steps),
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.clip_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=(plan.seed + plan.index) % 2**32,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=config.trackers or "none",
        disable_tqdm=True,
    )
    args.mixed_precision = "bf16" if args.bf16 else "no"  # whatever a launcher or Accelerate's own file says
    if args.world_size == 1:
        # The Trainer would take the first GPU, and all of them for DataParallel; the run's own device is the one.
        args.distributed_state.device = device
        args._setup_devices = device
        args._n_gpu = int(device.type == "cuda")
    return args


@contextmanager
def _interruptible(trainer: StageTrainer) -> Iterator[None]:
    """Ctrl-C ends training at the next whole step, a second one at once.

    Processes would stop at different steps and wait for each other, so several are left to their launcher.
    """
    if trainer.args.world_size > 1:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.interrupted = True

    with handling(signal.SIGINT, stop):
        yield


@contextmanager
def _progress(trainer: StageTrainer, stage: Stage, *, done: int) -> Iterator[None]:
    """A bar over the optimiser steps with the last loss, at the main process."""
    if not trainer.is_world_process_zero():
        yield
        return
    with progress(f"train {stage.name}", total=trainer.args.max_steps, done=done) as trainer.bar:
        yield


def _finish(folder: Path, report: TrainReport, *, optimizer: bool) -> None:
    """Mark a stage complete; its resume point shrinks to what the next stage needs, those of earlier stages go."""
    write_whole(folder / REPORT, json.dumps(asdict(report), indent=1) + "\n")
    for stage in folder.parent.iterdir():
        for point in resume_points(stage):
            if stage != folder:
                shutil.rmtree(point)
            else:
                shrink(point, optimizer=optimizer)
