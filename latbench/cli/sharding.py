"""What commands that share work out have in common: which shard a process answers, what they say where parts are open,
and an evaluation whose shards are answered by jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from latbench.cli.console import FAILED, note
from latbench.cli.job_bars import JobBars
from latbench.evaluation.shards import Shard, launched

if TYPE_CHECKING:
    from latbench.evaluation.job import EvalJob
    from latbench.sweeps.executor import JobResult
    from latbench.sweeps.places import Place


@dataclass(frozen=True, kw_only=True)
class OpenParts:
    """What a process leaves whose part is done while others are not."""

    folder: Path
    """Of what is sharded."""
    done: str
    """The shard that is done, as I/N."""
    open: list[str]
    """Shards whose part is missing or not complete."""

    @classmethod
    def of(cls, folder: Path, shard: Shard, lost: Sequence[Shard]) -> OpenParts:
        """The parts that are left.

        Args:
            folder: of what is sharded.
            shard: the one that is done.
            lost: the shards whose part is missing or not complete.
        """
        return cls(folder=folder, done=str(shard), open=[str(other) for other in lost])

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.open:
            return f"{self.folder}: part {self.done} is done; another process joins the parts"
        return f"{self.folder}: part {self.done} is done, open are {', '.join(self.open)}; the last to end joins them"


def chosen_shard(text: str | None) -> Shard | None:
    """The shard of `--shard`, or of a process that a launcher started; None: all of the work.

    Raises: ValueError: it is not I/N, or both name one.
    """
    shard, of_launcher = None if text is None else Shard.parse(text), launched()
    if shard is not None and of_launcher is not None:
        raise ValueError(
            f"--shard {shard} and a launcher with {of_launcher.count} processes both share the work out; use one"
        )
    return shard or of_launcher


def check_jobs(shards: int | None, part: Shard | None, place: Place) -> None:
    """Look at what is said of the jobs of `--shards`.

    Args:
        shards: number of them.
        part: the one that this process answers by itself.
        place: what the options of jobs say.
    Raises: ValueError: a shard is named as well, or options of jobs without jobs.
    """
    from latbench.sweeps import places

    if shards is not None and part is not None:
        raise ValueError(
            f"--shards {shards} starts a job for each shard, but this process answers {part} itself; use one of both"
        )
    places.check_jobs(shards, place)


def evaluate_in_jobs(evaluations: Sequence[EvalJob], command: tuple[str, ...], shards: int, place: Place) -> None:
    """Answer evaluations of one run in shards, each by a job, and say how far they have come.

    Args:
        evaluations: of one run.
        command: that makes them.
        shards: number of them.
        place: where the jobs run.
    Raises: ValueError: an evaluation is refused. typer.Exit: a shard has failed.
    """
    from latbench.sweeps.sharded import evaluate_in_shards, num_shards

    run = evaluations[0].run
    jobs = num_shards(evaluations, shards)
    bars = JobBars("parts", jobs, run.folder.parent / "logs", lambda name: name.startswith(f"{run.folder.name}."))

    def ended(result: JobResult) -> None:
        bars.advance()
        bars.say(f"{result.job.name}: {result.last_line if result.failed else 'done'}")

    executor = place.open([run.config], evaluations)
    with bars.shown():
        failed = evaluate_in_shards(evaluations, command, shards, executor, ended)
    for result in failed:
        note(f"failed: {result.job.name}: {result.last_line} (log: {result.job.log}); start the command again")
    if failed:
        raise typer.Exit(FAILED)
