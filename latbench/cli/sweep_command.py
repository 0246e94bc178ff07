"""`latbench sweep`: what it would do, how far it has come, and a table as its results arrive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latbench.cli.console import FAILED, note, print_json, say
from latbench.cli.job_bars import JobBars
from latbench.cli.options import (
    RUNS,
    AddressOption,
    CpusOption,
    DataOption,
    ExecutorOption,
    GpusOption,
    JobsOption,
    JsonOption,
    ResumeOption,
    RunsOption,
    ShardsOption,
    TrustOption,
    Where,
)
from latbench.util.data_dir import use_data_dir

if TYPE_CHECKING:
    from latbench.sweeps.dry_run import PlannedSweep
    from latbench.sweeps.executor import JobResult
    from latbench.sweeps.sweep import Member, SweepConfig
    from latbench.sweeps.sweep_rows import SweepRow

commands = typer.Typer()


@commands.command(rich_help_panel="Runs")
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="methods, tasks, seeds, settings, base.")],
    resume: ResumeOption = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many questions, in place of what the file says.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained and evaluated, and what it costs; do nothing.")
    ] = False,
    shards: ShardsOption = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = Where.local,
    address: AddressOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate a grid of runs; what is complete is skipped, a failed run stops no other."""
    from latbench.sweeps.places import Place
    from latbench.sweeps.running import run_sweep
    from latbench.sweeps.sweep import members, read_sweep, with_limit
    from latbench.sweeps.sweep_rows import rows_of

    use_data_dir(data_dir)
    config = with_limit(read_sweep(file), limit)
    place = Place(executor=executor.value, jobs=jobs, address=address, gpus_per_job=gpus, cpus_per_job=cpus)
    if dry_run:
        _say_planned(config, runs_dir, trust, as_json)
        return
    by_name = {member.run.folder.name: member for member in members(config, runs_dir)}
    runs_on = place.for_sweep(config, by_name.values())
    with _Watch(by_name, config, runs_dir).shown() as watch:
        done = run_sweep(
            config,
            runs_on,
            runs_dir=runs_dir,
            resume=resume,
            shards=shards or 1,
            trust_remote_code=trust,
            on_end=watch.run_ended,
        )
    ended = [result.job.name for result in done.results if not result.failed]
    rows = [row for member in by_name.values() for row in rows_of(member.again(), config)]
    if as_json:
        failed = [{"run": result.job.name, "log": result.job.log, "error": result.last_line} for result in done.failed]
        table = [asdict(row) for row in rows]
        print_json({"skipped": done.skipped, "complete": ended, "failed": failed, "evaluations": table})
    else:
        _say_rows(rows)
        say(f"{len(ended)} runs done, {len(done.skipped)} complete before, {len(done.failed)} failed")
    for result in done.failed:
        note(f"failed: {result.job.name}: {result.last_line} (log: {result.job.log})")
    if done.failed:
        raise typer.Exit(FAILED)


def _say_rows(rows: list[SweepRow]) -> None:
    """The results of all evaluations that are complete."""
    from latbench.report.markdown import markdown_table
    from latbench.sweeps.sweep_rows import table_of

    if rows:
        say(markdown_table(table_of(rows)) + "\n")


def _say_planned(config: SweepConfig, runs_dir: Path, trust: bool, as_json: bool) -> None:
    """What a sweep would do."""
    from latbench.report.columns import number_text
    from latbench.report.markdown import markdown_table
    from latbench.report.table import Head, Table
    from latbench.sweeps.dry_run import plan_sweep

    found: PlannedSweep = plan_sweep(config, runs_dir=runs_dir, trust_remote_code=trust)
    if as_json:
        print_json({**asdict(found), "passes": found.passes, "flops": found.flops})
        return
    heads = (Head("run", is_text=True), Head("steps"), Head("passes"), Head("FLOPs"))
    lines = [(run.run, str(run.steps), str(run.passes), number_text(run.flops, ".3g")) for run in found.runs]
    if lines:
        say(markdown_table(Table(heads=heads, lines=tuple(lines))) + "\n")
    say(
        f"{len(found.runs)} runs to train ({found.num_complete} complete), {found.passes} passes over examples, "
        f"{number_text(found.flops, '.3g')} FLOPs of training; {found.num_evaluations} evaluations, "
        f"{found.num_answers} answers"
    )


class _Watch:
    """Shows how far the jobs of a sweep have come: a bar for each that runs, a line for each result."""

    def __init__(self, members: Mapping[str, Member], config: SweepConfig, runs_dir: Path) -> None:
        self._members, self._config = members, config
        self._bars = JobBars("runs", len(members), runs_dir / "logs", self._is_of_the_sweep)
        self._num_ended = 0

    def _is_of_the_sweep(self, job: str) -> bool:
        """Whether a job is that of a run, or of a shard of its evaluations."""
        return job in self._members or job.rpartition(".")[0] in self._members

    @contextmanager
    def shown(self) -> Iterator[_Watch]:
        """Show it for the time of a block."""
        with self._bars.shown():
            yield self

    def run_ended(self, result: JobResult) -> None:
        """Show the results of a run, or why it failed."""
        from latbench.sweeps.sweep_rows import rows_of

        self._num_ended += 1
        self._bars.advance()
        count = f"[{self._num_ended}]"
        if result.failed:
            self._bars.say(f"{count} {result.job.name} failed: {result.last_line}")
            return
        for row in rows_of(self._members[result.job.name].again(), self._config):
            self._bars.say(f"{count} {row.sentence}")
