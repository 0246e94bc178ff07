"""Run a sweep: what is not complete becomes jobs, which an executor runs somewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from latbench.config import ConfigError, RunConfig, stable_hash, tree
from latbench.evaluation.evaluate import refuse
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import EvalConfig, plan, questions
from latbench.evaluation.shards import Shard
from latbench.runs.run import CONFIG
from latbench.runs.train import device_map_problem
from latbench.sweeps.executor import Executor, Job, JobResult, every
from latbench.sweeps.sharded import LATBENCH, Work, eval_command, join_all, num_shards, shard_jobs
from latbench.sweeps.sweep import Member, SweepConfig, members, open_members
from latbench.util.files import write_whole


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """What a sweep did: runs that were complete before, and results of the others."""

    skipped: list[str] = field(default_factory=list)
    results: list[JobResult] = field(default_factory=list)

    @property
    def failed(self) -> list[JobResult]:
        """Results of the jobs that failed."""
        return [result for result in self.results if result.failed]


def run_sweep(
    sweep: SweepConfig,
    executor: Executor,
    *,
    runs_dir: Path,
    resume: bool,
    on_end: Callable[[JobResult], None],
    shards: int = 1,
    trust_remote_code: bool = False,
) -> SweepReport:
    """Train and evaluate every run that is not complete.

    Args:
        shards: that the evaluations of a run are divided into, each answered by a job of its own once it is trained.
        on_end: called as each run ends, with the result of all its jobs together.
    Raises: ValueError: invalid configurations or evaluations, data that are not at hand, parts of another number of
        shards, or unfinished runs there while `resume` is off.
    """
    all_members = members(sweep, runs_dir)
    left = open_members(all_members, sweep)
    _refuse_device_maps(left)
    _refuse_absent_data(left, sweep)
    begun = [member.run.folder.name for member in left if (member.run.folder / CONFIG).exists()]
    if begun and not resume:
        raise ValueError(f"{len(begun)} runs of the sweep are begun but not complete (first {begun[0]}); pass --resume")
    counts = [num_shards(member.open_jobs(sweep), shards) if shards > 1 else 1 for member in left]
    for member, count in zip(left, counts, strict=True):
        _refuse_other_parts(member, sweep, count)
    trust = ("--trust-remote-code",) if trust_remote_code else ()
    works = [_work(member, sweep, runs_dir, trust, count) for member, count in zip(left, counts, strict=True)]
    complete = [member.run.folder.name for member in all_members if member not in left]
    return SweepReport(skipped=complete, results=_run_works(works, executor, on_end))


def _run_works(works: Sequence[Work], executor: Executor, on_end: Callable[[JobResult], None]) -> list[JobResult]:
    """Run the jobs of all runs. Returns: one result for each run, in order."""
    by_job = {job.name: work for work in works for job in every(work.jobs)}
    results: dict[str, JobResult] = {}
    one_at_a_time = threading.Lock()

    def job_ended(result: JobResult) -> None:
        with one_at_a_time:
            if (whole := by_job[result.job.name].take(result)) is not None:
                results[whole.job.name] = whole
                on_end(whole)

    executor.run([job for work in works for job in work.jobs], job_ended)
    return [results[work.job.name] for work in works]


def _refuse_device_maps(members: Sequence[Member]) -> None:
    """Raises: ConfigError: a run that is to be trained names a map of devices, which is for inference."""
    configs = [member.run.config for member in members if not member.run.is_complete]
    errors = [sentence for config in configs if (sentence := device_map_problem(config)) is not None]
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))


def _refuse_other_parts(member: Member, sweep: SweepConfig, count: int) -> None:
    """Raises: ValueError: what is begun of a run's evaluations does not go on with that many shards."""
    if count > 1 and member.run.is_complete:
        for job in member.open_jobs(sweep):
            refuse(job, Shard(1, count), load=False)


def _refuse_absent_data(members: Sequence[Member], sweep: SweepConfig) -> None:
    """Read all data once. Raises: ConfigError: every split that is not at hand, one sentence each."""
    splits: dict[str, EvalConfig] = {}
    for member in members:
        asked = [replace(job.settings, limit=None) for job in member.jobs(sweep)]
        if not member.run.is_complete:
            asked += _trained_on(member.run.config)
        splits |= {stable_hash([of.task_name, asdict(of.task), of.split]): of for of in asked}
    errors = []
    for settings in splits.values():
        try:
            questions(settings)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))


def _trained_on(config: RunConfig) -> list[EvalConfig]:
    """The training data of a run and of those that it starts from, as questions."""
    own = plan(config, config.task_name, split=config.train.split)
    return [own, *(_trained_on(config.start) if config.start else [])]


def _work(member: Member, sweep: SweepConfig, runs_dir: Path, trust: tuple[str, ...], count: int) -> Work:
    """The jobs of one member; its configuration is written where they read it.

    Args:
        trust: an option for each of their commands.
        count: number of shards of its evaluations.
    """
    name = member.run.folder.name
    config = runs_dir / "logs" / f"{name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    write_whole(config, tree.dump_yaml(member.run.config.to_tree()))
    train = (*LATBENCH, "train", "--config", str(config), "--runs-dir", str(runs_dir), "--resume", *trust)
    job = Job(
        name=name,
        commands=(train, *(command + trust for command in _evaluations(member, sweep, member.jobs(sweep)))),
        log=runs_dir / "logs" / f"{name}.log",
        root=runs_dir,
        paths=(name, *starts_of(member.run.config), str(config.relative_to(runs_dir))),
    )
    if count == 1:
        return Work(job, (job,), finish=lambda: None)
    left = member.open_jobs(sweep)
    parts = shard_jobs(left, [command + trust for command in _evaluations(member, sweep, left)], count)
    training = replace(job, commands=(train,), then=parts)
    return Work(
        training,
        parts if member.run.is_complete else (training,),
        finish=lambda: join_all(member.again().open_jobs(sweep)),
    )


def _evaluations(member: Member, sweep: SweepConfig, jobs: Sequence[EvalJob]) -> list[tuple[str, ...]]:
    """The command lines that make some evaluations of a member, one for each decoding."""
    folders = {job.folder for job in jobs}
    commands = []
    for changes in member.decodings:
        tasks = [task for task in member.tasks if member.job(sweep, task, changes).folder in folders]
        if tasks:
            who = [str(member.run.folder)]
            commands.append(eval_command(who, tasks, split=sweep.split, limit=sweep.limit, changes=changes))
    return commands


def starts_of(config: RunConfig) -> list[str]:
    """Names of the runs that a run starts from, directly or not.

    Args:
        config: of the run.
    """
    return [] if config.start is None else [config.start.run_id, *starts_of(config.start)]
