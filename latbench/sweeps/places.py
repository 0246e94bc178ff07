"""Where jobs can run: the executors by name, with what each of them takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latbench.config import RunConfig
from latbench.evaluation.job import EvalJob
from latbench.sweeps.executor import Executor, LocalExecutor, slots
from latbench.sweeps.sweep import Member, SweepConfig
from latbench.task import TaskConfig

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where jobs are to run, as a user says it."""

    executor: str = LOCAL
    """`local`: this machine; `ray`: a Ray cluster."""
    jobs: int | None = None
    """Processes at once on this machine; None: one per GPU, or one."""
    address: str | None = None
    """HOST:PORT of the head of a Ray cluster; None: the cluster that this machine is in, else a new one."""
    gpus_per_job: float | None = None
    """On Ray; None: one where there are any."""
    cpus_per_job: float | None = None
    """On Ray; None: one."""

    def __post_init__(self) -> None:
        if self.executor not in (LOCAL, RAY):
            raise ValueError(f"--executor must be {LOCAL} or {RAY}, got {self.executor!r}")
        for_ray = (self.address, self.gpus_per_job, self.cpus_per_job)
        if self.executor == LOCAL and any(value is not None for value in for_ray):
            raise ValueError("--address, --gpus-per-job and --cpus-per-job are for a Ray cluster; add --executor ray")
        if self.executor == RAY and self.jobs is not None:
            raise ValueError(
                "--jobs is for this machine; a Ray cluster runs as many as --gpus-per-job and --cpus-per-job allow"
            )
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs must be >= 1, got {self.jobs}")

    def open(self, configs: Iterable[RunConfig], evaluations: Iterable[EvalJob]) -> Executor:
        """What runs the jobs there.

        Args:
            configs: of the runs, whose models and own data every node must have.
            evaluations: whose own data every node must have.
        Raises: ValueError: Ray is not installed, or as `RayExecutor`.
        """
        if self.executor == LOCAL:
            return LocalExecutor(slots(self.jobs))
        configs = list(configs)
        tasks = [*(config.task for config in configs), *(job.settings.task for job in evaluations)]
        needed = {str(Path(config.model.id).absolute()) for config in configs if Path(config.model.id).is_dir()}
        needed |= {path for path in map(_own_file, tasks) if path is not None}
        try:
            from latbench.sweeps.ray_executor import RayExecutor

            cpus = 1 if self.cpus_per_job is None else self.cpus_per_job
            return RayExecutor(self.address, num_gpus=self.gpus_per_job, num_cpus=cpus, needed=sorted(needed))
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ValueError("--executor ray needs the package ray; run `pip install 'latbench[ray]'`") from None

    def for_sweep(self, sweep: SweepConfig, members: Iterable[Member]) -> Executor:
        """What runs the jobs of a sweep there.

        Args:
            sweep: its content.
            members: all of its runs.
        Raises: ValueError: as `open`.
        """
        members = list(members)
        evaluations = [job for member in members for job in member.jobs(sweep)]
        return self.open([member.run.config for member in members], evaluations)


def check_shards(shards: int | None) -> None:
    """Raises: ValueError: it is no number of shards."""
    if shards is not None and shards < 1:
        raise ValueError(f"--shards must be >= 1, got {shards}")


def check_jobs(shards: int | None, place: Place) -> None:
    """Look at what is said of the jobs of an evaluation in shards.

    Args:
        shards: number of them; None: no jobs are asked for.
        place: what is said of jobs.
    Raises: ValueError: it is no number of shards, or more is said of jobs than that there are none.
    """
    check_shards(shards)
    if shards is None and place != Place():
        raise ValueError("--executor, --jobs and the options of Ray belong to an evaluation in jobs; add --shards N")


def _own_file(task: TaskConfig) -> str | None:
    """The file of a task's own data; None where it has none."""
    path = str(getattr(task, "path", ""))
    return path if Path(path).is_absolute() and Path(path).is_file() else None
