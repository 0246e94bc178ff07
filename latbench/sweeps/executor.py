"""Run jobs, each a few command lines one after another, somewhere; here: on this machine, one process per device."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latbench.sweeps.child import under
from latbench.util.progress import PROGRESS_FILE
from latbench.util.signals import handling


@dataclass(frozen=True, kw_only=True)
class Job:
    """Commands that run one after another until one fails."""

    name: str
    """What it is called, here and in the names of its files."""
    commands: tuple[tuple[str, ...], ...]
    """Program and arguments of each."""
    log: Path
    """File to which their output is appended."""
    root: Path | None = None
    """Folder in which everything lies that the commands read and write, if they may run on another machine."""
    paths: tuple[str, ...] = ()
    """What they read and write in it: files and folders, which are brought back from another machine."""
    reads: tuple[str, ...] = ()
    """What they only read in it: files and folders, which are sent to another machine."""
    then: tuple[Job, ...] = ()
    """Jobs that begin once this one has ended well; where it fails, they never do."""

    @property
    def progress(self) -> Path:
        """File in which the running command says how far it has come; it goes when the job ends."""
        return self.log.with_suffix(".progress")


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job ended; `last_line` of its log says why where it failed."""

    job: Job
    returncode: int
    last_line: str

    @property
    def failed(self) -> bool:
        """Whether a command ended with an exit code other than 0."""
        return self.returncode != 0


class Executor(Protocol):
    """Where jobs run."""

    def run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None]) -> list[JobResult]:
        """Run all jobs and those that follow them; a failed one stops no other but its followers.

        Args:
            on_end: called as each job ends, perhaps from several threads at once.
        Returns: results of all that were begun, in the order of `every`.
        """


def every(jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs in order, each with those that follow it."""
    for job in jobs:
        yield job
        yield from every(job.then)


def in_order(jobs: Sequence[Job], results: Mapping[str, JobResult]) -> list[JobResult]:
    """The results of the jobs that were begun, in the order of `every`.

    Args:
        jobs: that were to be run.
        results: by the name of a job.
    """
    return [results[job.name] for job in every(jobs) if job.name in results]


class LocalExecutor:
    """Processes on this machine, as many at once as there are slots.

    Args:
        slots: one per process at a time: the GPU it may see (`CUDA_VISIBLE_DEVICES`), or None for no restriction.
    """

    def __init__(self, slots: Sequence[str | None]) -> None:
        self._slots: queue.Queue[str | None] = queue.Queue()
        for slot in slots:
            self._slots.put(slot)
        self._num_slots = len(slots)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None]) -> list[JobResult]:
        """See Executor. However this process ends, the running ones end with it, which leaves resumable runs."""
        terminated = handling(signal.SIGTERM, signal.default_int_handler)  # schedulers send it
        waiting, running = deque(jobs), set[Future[JobResult]]()
        results: dict[str, JobResult] = {}
        with terminated, ThreadPoolExecutor(self._num_slots) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self._num_slots:
                        running.add(pool.submit(self._run, waiting.popleft(), on_end))
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    for result in (future.result() for future in ended):
                        results[result.job.name] = result
                        waiting.extendleft([] if result.failed else reversed(result.job.then))
            except KeyboardInterrupt:
                self._stop()
                raise
        return in_order(jobs, results)

    def _run(self, job: Job, on_end: Callable[[JobResult], None]) -> JobResult:
        slot = self._slots.get()
        try:
            returncode = self._run_commands(job, slot)
        finally:
            self._slots.put(slot)
            job.progress.unlink(missing_ok=True)
        result = JobResult(job=job, returncode=returncode, last_line=last_line(job.log))
        if not self._stopped:
            on_end(result)
        return result

    def _run_commands(self, job: Job, slot: str | None) -> int:
        environment = {**os.environ, PROGRESS_FILE: str(job.progress.absolute())}
        environment |= {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.progress.unlink(missing_ok=True)  # of a sweep that was killed
        with job.log.open("ab") as log:
            for command in job.commands:
                log.write(f"$ {shlex.join(command)}\n".encode())
                log.flush()
                with self._lock:
                    if self._stopped:
                        return 1
                    # in a group of its own: Ctrl-C at the terminal reaches it once, through `_stop`
                    process = subprocess.Popen(
                        under(os.getpid(), command),
                        stdout=log,
                        stderr=log,
                        stdin=subprocess.DEVNULL,
                        env=environment,
                        process_group=0,
                    )
                    self._running.add(process)
                returncode = process.wait()
                with self._lock:
                    self._running.discard(process)
                if returncode:
                    return returncode
        return 0

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)  # training stops at its next whole step


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def slots(jobs: int | None) -> list[str | None]:
    """What each process of a sweep may see: a GPU, or with none (or so many jobs asked for) no restriction."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        return [gpus[index % len(gpus)] for index in range(jobs or len(gpus))]
    return [None] * (jobs or 1)
