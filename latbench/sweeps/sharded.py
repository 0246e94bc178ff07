"""Evaluations answered by several jobs at once: each answers one shard, here or on another machine, and the driver
joins the parts that come back.

A part is all that a job brings back, so that jobs of one run do not meet in its folder, and a machine that dies costs
the shard that it was answering and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from latbench.evaluation.evaluate import is_answered, refuse
from latbench.evaluation.job import EvalJob
from latbench.evaluation.join import join_whole
from latbench.evaluation.shards import Shard
from latbench.runs.run import CHECKPOINT, CONFIG, EVAL, TRAIN, Run
from latbench.runs.train import keep
from latbench.runs.train_questions import QUESTIONS
from latbench.sweeps.executor import Executor, Job, JobResult, every

LATBENCH = (sys.executable, "-m", "latbench")
NOT_JOINED = 2  # exit code of a run whose parts do not join


def eval_command(
    target: Sequence[str], tasks: Sequence[str], *, split: str, limit: int | None, changes: Mapping[str, Any]
) -> tuple[str, ...]:
    """The command line of an evaluation.

    Args:
        target: who answers, see `target_options`.
        tasks: as `latbench eval` names them; an empty list asks the run's own.
        split: of the tasks.
        limit: the first so many questions of each; None: all.
        changes: settings by dotted key.
    """
    named = ("--tasks", ",".join(tasks)) if tasks else ()
    first = () if limit is None else ("--limit", str(limit))
    settings = (f"--set={key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items())
    return (*LATBENCH, "eval", *target, *named, "--split", split, *first, *settings)


def target_options(
    run: Run,
    *,
    model: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[str]:
    """What `latbench eval` is to be told of who answers.

    Args:
        run: who answers; its folder lies in the folder of all runs.
        model: as the user names it; None: the run is named by its folder.
        method: as the user names it.
        preset: of the method over a model as it comes.
        device: where the model is put.
        trust_remote_code: run Python files that lie beside the model.
    """
    named = {"--model": model, "--method": method, "--preset": preset, "--device": device}
    options = [part for name, value in named.items() if value is not None for part in (name, value)]
    options += ["--runs-dir", str(run.folder.parent), *(["--trust-remote-code"] if trust_remote_code else [])]
    return options if model is not None else [str(run.folder), *options]


def num_shards(evaluations: Sequence[EvalJob], wanted: int) -> int:
    """As many shards as are wanted, and no more than the largest evaluation has chunks.

    Args:
        evaluations: of one run.
        wanted: number of shards.
    """
    chunks = (-(-len(job.examples) // job.settings.generate.chunk) for job in evaluations)
    return min(wanted, max(chunks, default=1))


def shard_jobs(evaluations: Sequence[EvalJob], commands: Sequence[tuple[str, ...]], count: int) -> tuple[Job, ...]:
    """A job for each shard; for a single one, a job that makes the evaluations as they are.

    Args:
        evaluations: of one run, whose folder lies in the folder of all runs.
        commands: that make them.
        count: number of shards.
    """
    run = evaluations[0].run
    root = run.folder.parent
    reads = tuple(f"{run.folder.name}/{file}" for file in _read_files(run))
    jobs = []
    for shard in Shard(1, count).all:
        name = f"{run.folder.name}.{shard.number}-of-{shard.count}"
        part = () if count == 1 else ("--shard", str(shard))
        written = [job.folder if count == 1 else shard.folder(job.folder) for job in evaluations]
        jobs.append(
            Job(
                name=name,
                commands=tuple((*command, *part) for command in commands),
                log=root / "logs" / f"{name}.log",
                root=root,
                reads=reads,
                paths=tuple(folder.relative_to(root).as_posix() for folder in written),
            )
        )
    return tuple(jobs)


def _read_files(run: Run) -> list[str]:
    """Files and folders of a run that its answers need, whether they are there yet or not."""
    if run.checkpoint == run.folder:  # exported
        return sorted(path.name for path in run.folder.iterdir() if path.name != EVAL and path.name[0] != ".")
    return [CONFIG, TRAIN, CHECKPOINT, QUESTIONS]


def join_all(evaluations: Sequence[EvalJob]) -> None:
    """Join the parts of each evaluation, unless a process that answered the last of them has done so.

    Args:
        evaluations: all of whose shards have been answered.
    Raises: ValueError: a part has not come back, or parts do not belong together.
    """
    for job in evaluations:
        join_whole(job)
        if not is_answered(job):
            raise ValueError(f"{job.folder}: a part has not come back; start the command again to answer it")


@dataclass
class Work:
    """The jobs of one run, which count as one job: it ends with the last of them, and fails with the first that does.

    Args:
        job: what they are called and logged as together.
        jobs: that begin at once.
        finish: called when all have ended well. Raises: ValueError: what they made does not fit together.
    """

    job: Job
    jobs: tuple[Job, ...]
    finish: Callable[[], None]
    _open: set[str] = field(init=False)
    _failed: JobResult | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._open = {job.name for job in every(self.jobs)}

    def take(self, result: JobResult) -> JobResult | None:
        """Take the result of one of the jobs.

        Args:
            result: of a job that has ended.
        Returns: the result of all, once none is left; its log is that of the job that failed.
        """
        self._open.discard(result.job.name)
        if result.failed:
            self._failed = self._failed or result
            self._open -= {job.name for job in every(result.job.then)}  # which never begin
        if self._open:
            return None
        if self._failed is not None:
            return replace(self._failed, job=replace(self.job, log=self._failed.job.log))
        try:
            self.finish()
        except ValueError as error:
            return JobResult(job=self.job, returncode=NOT_JOINED, last_line=f"error: {error}")
        return replace(result, job=self.job)


def evaluate_in_shards(
    evaluations: Sequence[EvalJob],
    command: tuple[str, ...],
    count: int,
    executor: Executor,
    on_end: Callable[[JobResult], None],
) -> list[JobResult]:
    """Answer evaluations of one run in shards, and join the parts; what is complete is not answered again.

    Args:
        evaluations: of one run, which is complete, or a model as it comes.
        command: that makes them.
        count: number of shards; there are no more than chunks.
        executor: that runs a job for each shard.
        on_end: called as each job ends, perhaps from several threads at once.
    Returns: the results of shards that failed; where there are none, all evaluations are on file.
    Raises: ValueError: an evaluation is refused, or parts do not belong together.
    """
    count = num_shards(evaluations, count)
    left = [job for job in evaluations if not is_answered(job)]
    for job in left:
        refuse(job, None if count == 1 else Shard(1, count), load=False)
    if left:
        keep(left[0].run)
    jobs = shard_jobs(evaluations, [command], count) if left else ()
    failed = [result for result in executor.run(jobs, on_end) if result.failed] if jobs else []
    if not failed:
        join_all(left)
    return failed
