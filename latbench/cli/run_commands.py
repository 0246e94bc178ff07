"""Commands that make runs: quickstart, train, eval, rerun; sweep has a file of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latbench import registry
from latbench.cli.console import (
    FAILED,
    figures,
    left_out,
    note,
    print_json,
    say,
)
from latbench.cli.options import (
    RUNS,
    AddressOption,
    ColumnsOption,
    CpusOption,
    DataOption,
    DeviceOption,
    ExecutorOption,
    GpusOption,
    JobsOption,
    JsonOption,
    KindOption,
    LimitOption,
    MethodOption,
    ModelOption,
    PresetOption,
    PromptOption,
    ResumeOption,
    RunArgument,
    RunsOption,
    SamplesOption,
    SeedOption,
    SetOption,
    ShardOption,
    ShardsOption,
    TaskOption,
    TrustOption,
    Where,
    eval_changes,
    own_data_options,
)
from latbench.cli.sharding import OpenParts, check_jobs, chosen_shard, evaluate_in_jobs
from latbench.config import tree
from latbench.util.data_dir import use_data_dir

commands = typer.Typer()


@commands.command(rich_help_panel="Runs")
def quickstart(
    every: Annotated[bool, typer.Option("--all", help="Every method with a tiny preset.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Cap on training steps.")] = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of table and plot; the runs' folder by default.")] = None,
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate the embedded default, and print its leaderboard: CPU, offline, minutes."""
    from latbench.cli import quickstart as start
    from latbench.runs.train import slow_precision

    changes = dict(tree.flatten(tree.parse_overrides(settings or [])))
    if steps is not None:
        changes["train.max_steps"] = steps
    configs = start.quickstart_configs(every=every, seeds=range(seeds), settings=changes)
    if "train.precision" not in changes and any(slow_precision(config) for config in configs):
        note("this CPU has no units for bfloat16, so the runs are trained in float32, which takes longer")
        changes["train.precision"] = "float32"
        configs = start.quickstart_configs(every=every, seeds=range(seeds), settings=changes)
    done = start.quickstart(configs, runs_dir=runs_dir, out=out or runs_dir, limit=limit)
    for notice in done.board.notices:
        note(notice)
    if as_json:
        print_json({"evaluations": done.evaluations, "files": done.paths})
    else:
        say(done.board.text_by_format["md"].rstrip("\n"))
        note("written: " + ", ".join(map(str, done.paths)))


@commands.command(rich_help_panel="Runs")
def train(
    method: MethodOption = None,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    prompt: PromptOption = None,
    model: ModelOption = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with a configuration tree.")] = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a method; the embedded tiny backbone and synth unless told otherwise."""
    from latbench.config import over_file, parse
    from latbench.evaluation.plan import decoding_changes
    from latbench.runs.train import slow_precision
    from latbench.runs.train import train as train_run

    use_data_dir(data_dir)
    own = {"--method": method, "--tasks": task}  # a run does not say which Python file it was made with
    own_files = "".join(f" {option} {value}" for option, value in own.items() if value and value.endswith(".py"))
    method = method and registry.from_file("method", method)
    task = task and registry.from_file("task", task)
    options = {"method.name": method, "task.name": task, "model.id": model, "seed": seed, "model.device": device}
    named = {key: value for key, value in options.items() if value is not None}
    given = over_file(named | own_data_options(columns, kind, prompt), config)
    chosen = parse(given, preset=preset, overrides=settings or [])
    if (slow := slow_precision(chosen)) is not None:
        note(slow)
    run = train_run(chosen, runs_dir=runs_dir, resume=resume, trust_remote_code=trust)
    costs = run.report["costs"]
    for sentence in left_out(run.report):
        note(sentence)
    if kept := decoding_changes(run.config, chosen):
        note(f"it was finished before and keeps its own {', '.join(kept)}; give other values to latbench eval")
    if as_json:
        print_json({"run": run.folder, **run.report})
    else:
        loss = "" if run.last_loss is None else f", loss {run.last_loss:.4g}"
        say(f"{run.folder}: {costs['optimiser_steps']} steps, {costs['seconds']:.0f} s{loss}")
        note(f"next: latbench eval {run.folder}{own_files}")


@commands.command("eval", rich_help_panel="Runs")
def evaluate(
    run: RunArgument = None,
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated names, data files or Hub ids; the run's own task by default.")
    ] = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    prompt: PromptOption = None,
    model: ModelOption = None,
    method: MethodOption = None,
    preset: PresetOption = None,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    shard: ShardOption = None,
    shards: ShardsOption = None,
    jobs_at_once: JobsOption = None,
    executor: ExecutorOption = Where.local,
    address: AddressOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run, or a method over a model as it comes; repeats continue where they stopped.

    Under `accelerate launch` each process answers a shard, and the main one joins them; `--shards N` starts a job for
    each shard, on this machine or on a Ray cluster.
    """
    from latbench.cli import eval_table
    from latbench.evaluation.evaluate import evaluate_all, is_answered
    from latbench.evaluation.job import EvalJob
    from latbench.evaluation.join import lost_parts
    from latbench.evaluation.metrics import summarise
    from latbench.evaluation.records import read_evaluation
    from latbench.evaluation.target import evaluation_target
    from latbench.sweeps.places import Place
    from latbench.sweeps.sharded import eval_command, target_options

    use_data_dir(data_dir)
    part = chosen_shard(shard)
    place = Place(executor=executor.value, jobs=jobs_at_once, address=address, gpus_per_job=gpus, cpus_per_job=cpus)
    check_jobs(shards, part, place)
    given = eval_changes(settings, samples) | ({} if seed is None else {"seed": seed})
    given |= own_data_options(columns, kind, prompt)
    named = list(dict.fromkeys(filter(None, map(str.strip, (tasks or "").split(",")))))
    names = [registry.from_file("task", name) for name in named]
    target, changes = evaluation_target(
        run, model, method, given, preset=preset, device=device, runs_dir=runs_dir, trust_remote_code=trust
    )
    names = names or [target.config.task_name]
    jobs = [EvalJob.of(target, name, split=split, limit=limit, changes=changes) for name in names]
    if shards is None:
        evaluate_all(jobs, part)
    else:
        who = target_options(target, model=model, method=method, preset=preset, device=device, trust_remote_code=trust)
        command = eval_command(who, named, split=split, limit=limit, changes=given)
        evaluate_in_jobs(jobs, command, shards, place)
    answered = [job for job in jobs if part is None or is_answered(job)]
    summaries = [summarise(read_evaluation(job.folder)) for job in answered]
    left = [OpenParts.of(job.folder, part, lost_parts(job)) for job in jobs if part and job not in answered]
    if as_json:
        evaluations = {"evaluations": [figures(summary) for summary in summaries]}
        print_json(evaluations | ({"open": [asdict(parts) for parts in left]} if part else {}))
        return
    for parts in left:
        say(parts.sentence)
    if summaries:
        eval_table.show(summaries)
    for summary in summaries:
        say(str(summary.folder))
        for sentence in eval_table.notices(summary):
            note(f"mind: {summary.manifest.task}/{summary.manifest.split}: {sentence}")


@commands.command(rich_help_panel="Runs")
def rerun(
    result: Annotated[Path, typer.Argument(help="Folder with manifest and records.")],
    check: Annotated[
        bool, typer.Option("--check", help="Fail where accuracy or #L leaves the result's interval.")
    ] = False,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a result from its manifest and compare the records."""
    from latbench.evaluation.rerun import rerun as repeat
    from latbench.report.columns import interval_text

    use_data_dir(data_dir)
    found = repeat(result, runs_dir=runs_dir, trust_remote_code=trust)
    if as_json:
        print_json({**asdict(found), "reproduced": found.reproduced})
    else:
        say(
            f"{found.num_identical} of {found.n} records identical; "
            f"accuracy (%) {interval_text(found.accuracy_now, 100)}, was {interval_text(found.accuracy_before, 100)}; "
            f"#L {interval_text(found.length_now)}, was {interval_text(found.length_before)}"
        )
    for difference in found.differences:
        note(f"not the same: {difference}")
    if check and not found.reproduced:
        note(f"not reproduced: see {found.folder}")
        raise typer.Exit(FAILED)
