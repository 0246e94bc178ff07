"""`latbench sweep`: what it would do, how far it has come, and a table as its results arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from latbench.cli.console import FAILED, note, print_json, say
from latbench.cli.options import RUNS, DataOption, JsonOption, ResumeOption, RunsOption, TrustOption
from latbench.data.folder import use_data_dir
from latbench.sweeps.executor import LocalExecutor, slots
from latbench.util.progress import bars, read_reached

if TYPE_CHECKING:
    from latbench.sweeps.dry_run import PlannedSweep
    from latbench.sweeps.executor import Executor, JobResult
    from latbench.sweeps.sweep import Member, SweepConfig
    from latbench.sweeps.sweep_rows import SweepRow


class Where(StrEnum):
    """What runs the jobs of a sweep."""

    local = "local"
    ray = "ray"


commands = typer.Typer()
LOOK_EVERY = 0.5  # seconds between two looks at how far the jobs have come


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
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once; one per GPU, or one, by default.")] = None,
    executor: Annotated[Where, typer.Option(help="This machine, or a Ray cluster.")] = Where.local,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head of the Ray cluster; the one this machine is in.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-job", min=0, help="On Ray; one where there are any, by default.")
    ] = None,
    cpus: Annotated[float, typer.Option("--cpus-per-job", min=0, help="On Ray.")] = 1,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate a grid of runs; what is complete is skipped, a failed run stops no other."""
    from latbench.sweeps.sweep import members, read_sweep, run_sweep
    from latbench.sweeps.sweep_rows import rows_of

    use_data_dir(data_dir)
    config = read_sweep(file)
    config = config if limit is None else replace(config, limit=limit)
    if dry_run:
        _say_planned(config, runs_dir, trust, as_json)
        return
    if executor is Where.local and (address is not None or gpus is not None):
        raise ValueError("--address and --gpus-per-job are for a Ray cluster; add --executor ray")
    if executor is Where.ray and jobs is not None:
        raise ValueError(
            "--jobs is for this machine; a Ray cluster runs as many as --gpus-per-job and --cpus-per-job allow"
        )
    by_name = {member.run.folder.name: member for member in members(config, runs_dir)}
    runs_on = LocalExecutor(slots(jobs)) if executor is Where.local else _ray(by_name, address, gpus, cpus)
    with _Watch(by_name, config, runs_dir).shown() as watch:
        done = run_sweep(
            config,
            runs_on,
            runs_dir=runs_dir,
            resume=resume,
            trust_remote_code=trust,
            on_end=watch.job_ended,
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


def _ray(members: Mapping[str, Member], address: str | None, gpus: float | None, cpus: float) -> Executor:
    """The cluster that runs the jobs. Raises: ValueError: Ray is not installed, or as `RayExecutor`."""
    try:
        from latbench.sweeps.ray_executor import RayExecutor

        models = sorted({member.run.config.model.id for member in members.values()})
        folders = [str(Path(model).absolute()) for model in models if Path(model).is_dir()]
        return RayExecutor(address, num_gpus=gpus, num_cpus=cpus, folders=folders)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError("--executor ray needs the package ray; run `pip install 'latbench[ray]'`") from None


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
        self._logs = runs_dir / "logs"
        self._console = Console(stderr=True)
        self._bars = bars(self._console)
        self._whole = self._bars.add_task("runs", total=len(members), note="")
        self._num_ended = 0
        self._ended = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[_Watch]:
        """Show it for the time of a block."""
        thread = threading.Thread(target=self._follow, daemon=True)
        with self._bars:
            thread.start()
            try:
                yield self
            finally:
                self._ended.set()
                thread.join()

    def job_ended(self, result: JobResult) -> None:
        """Show the results of a job, or why it failed."""
        from latbench.sweeps.sweep_rows import rows_of

        self._num_ended += 1
        self._bars.advance(self._whole)
        count = f"[{self._num_ended}]"
        if result.failed:
            self._say(f"{count} {result.job.name} failed: {result.last_line}")
            return
        for row in rows_of(self._members[result.job.name].again(), self._config):
            self._say(f"{count} {row.sentence}")

    def _say(self, sentence: str) -> None:
        if self._bars.disable:
            note(sentence)
        else:
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        shown: dict[str, int] = {}
        while not self._ended.wait(LOOK_EVERY):
            found = {path.stem: read_reached(path) for path in self._logs.glob("*.progress")}
            running = {name: reached for name, reached in found.items() if reached and name in self._members}
            for name in shown.keys() - running.keys():
                self._bars.remove_task(shown.pop(name))  # type: ignore[arg-type]
            for name, reached in running.items():
                if name not in shown:
                    shown[name] = self._bars.add_task(name, note="")
                what = f"{name}: {reached.what}"
                self._bars.update(shown[name], description=what, total=reached.total, completed=reached.done)  # type: ignore[arg-type]
