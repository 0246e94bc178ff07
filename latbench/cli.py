"""The command line: arguments -> RunConfig -> one function call each; commands import what they run, lists no torch."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latbench import registry, tree
from latbench.console import (
    FAILED,
    describe,
    evaluation_folder,
    figures,
    find_target,
    left_out,
    note,
    options_tree,
    print_json,
    say,
    slots,
    stale_files,
    use_data_dir,
)
from latbench.runs.run import Run, find_run, load_run

if TYPE_CHECKING:
    from latbench.runs.plan import EvalConfig

app = typer.Typer(
    name="latbench",
    help="Benchmark and evaluation harness for language models that reason in latent vectors.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RESUMED_BY_OPTION = ("train", "sweep")  # the others resume when they are repeated
INTERRUPTED = 130  # what Typer returns for Ctrl-C

MethodOption = Annotated[str | None, typer.Option("--method", help="Method; `latbench list methods` shows them.")]
TaskOption = Annotated[str | None, typer.Option("--task", help="Task to train on; synth by default.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Hugging Face id or local path; the embedded tiny one by default.")
]
PresetOption = Annotated[str | None, typer.Option("--preset", help="One of `latbench list presets`, or none.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any configuration key.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of weights, data order and draws.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
RunsOption = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
DataOption = Annotated[Path | None, typer.Option("--data-dir", help="Folder of data files (LATBENCH_DATA_DIR).")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="Answers per question.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue what is unfinished.")]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Folder or name; the latest trained run by default.")
]
OneTaskOption = Annotated[str | None, typer.Option("--tasks", help="One task; the run's own by default.")]
SplitOption = Annotated[str, typer.Option("--split", help="Split of the task.")]
RUNS = Path("runs")


@app.callback()
def root(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """The option stands here for `--help`; `main` takes it out of any place."""


@app.command()
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
    from latbench.runs import quickstart as start

    changes = dict(tree.flatten(tree.parse_overrides(settings or [])))
    if steps is not None:
        changes["train.max_steps"] = steps
    configs = start.quickstart_configs(every=every, seeds=range(seeds), settings=changes)
    done = start.quickstart(configs, runs_dir=runs_dir, out=out or runs_dir, limit=limit)
    for notice in done.board.notices:
        note(notice)
    if as_json:
        print_json({"evaluations": done.evaluations, "files": done.paths})
    else:
        say(done.board.text_by_format["md"].rstrip("\n"))
        note("written: " + ", ".join(map(str, done.paths)))


@app.command()
def train(
    method: MethodOption = None,
    task: TaskOption = None,
    model: ModelOption = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with a configuration tree.")] = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a method; the embedded tiny backbone and synth unless told otherwise."""
    from latbench.config import parse
    from latbench.runs.train import train as train_run

    use_data_dir(data_dir)
    options = {"method.name": method, "task.name": task, "model.id": model, "seed": seed, "model.device": device}
    given = options_tree(config, options)
    run = train_run(parse(given, preset=preset, overrides=settings or []), runs_dir=runs_dir, resume=resume)
    costs = run.report["costs"]
    for sentence in left_out(run.report):
        note(sentence)
    if as_json:
        print_json({"run": run.folder, **run.report})
    else:
        say(f"{run.folder}: {costs['optimiser_steps']} steps, {costs['seconds']:.0f} s")
        note(f"next: latbench eval --run {run.folder}")


@app.command("eval")
def evaluate(
    tasks: Annotated[str | None, typer.Option(help="Comma-separated; the run's own task by default.")] = None,
    run: Annotated[str | None, typer.Option(help="Folder or name; the latest trained run by default.")] = None,
    model: ModelOption = None,
    method: MethodOption = None,
    preset: PresetOption = None,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run, or a method over a model as it comes; repeats continue where they stopped."""
    from latbench.report.metrics import summarise
    from latbench.runs.evaluate import evaluate as evaluate_run
    from latbench.runs.evaluate import questions
    from latbench.runs.plan import plan
    from latbench.runs.records import read_evaluation

    use_data_dir(data_dir)
    changes = _changes(settings, samples) | ({} if seed is None else {"seed": seed})
    options = {"model.id": model, "method.name": method}
    fixed: dict[str, Any] = {}  # of a run by its training; a method over a model as it comes is set up here
    if model is not None or method is not None:
        fixed = {key: changes.pop(key) for key in list(changes) if key.split(".")[0] in ("model", "method")}
    target = find_target(run, options, settings=fixed, preset=preset, device=device, runs_dir=runs_dir)
    names = [name.strip() for name in tasks.split(",")] if tasks else [target.config.task_name]
    plans = [plan(target.config, name, split=split, limit=limit, changes=changes) for name in names]
    asked = [questions(wanted) for wanted in plans]  # refuses absent data before anything is answered
    folders = [evaluate_run(target, wanted, given) for wanted, given in zip(plans, asked, strict=True)]
    summaries = [summarise(read_evaluation(folder)) for folder in folders]
    if as_json:
        print_json({"evaluations": [figures(summary) for summary in summaries]})
        return
    for folder, summary in zip(folders, summaries, strict=True):
        say(f"{folder}: accuracy {summary.accuracy.value:.4f} on {summary.n} questions")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="methods, tasks, seeds, settings, base.")],
    resume: ResumeOption = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once; one per GPU, or one, by default.")] = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate a grid of runs; what is complete is skipped, a failed run stops no other."""
    from latbench.progress import progress
    from latbench.runs.executor import LocalExecutor
    from latbench.runs.sweep import members, read_sweep, run_sweep

    use_data_dir(data_dir)
    config = read_sweep(file)
    with progress("sweep", total=len(members(config, runs_dir))) as advance:
        done = run_sweep(
            config,
            LocalExecutor(slots(jobs)),
            runs_dir=runs_dir,
            resume=resume,
            on_end=lambda result: advance(1),
        )
        advance(len(done.skipped))
    ended = [result.job.name for result in done.results if not result.failed]
    if as_json:
        failed = [{"run": result.job.name, "log": result.job.log, "error": result.last_line} for result in done.failed]
        print_json({"skipped": done.skipped, "complete": ended, "failed": failed})
    else:
        say(f"{len(ended)} runs done, {len(done.skipped)} complete before, {len(done.failed)} failed")
    for result in done.failed:
        note(f"failed: {result.job.name}: {result.last_line} (log: {result.job.log})")
    if done.failed:
        raise typer.Exit(FAILED)


@app.command()
def leaderboard(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="./runs by default.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: md, csv, latex, html.")] = "md",
    out: Annotated[Path | None, typer.Option(help="Folder to write to instead of standard output.")] = None,
    reported: Annotated[bool, typer.Option("--reported", help="Add the numbers that papers report, as such.")] = False,
    all_records: Annotated[bool, typer.Option("--all-records", help="Every record, in files beside the page.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail where scores, metrics, identities or files do not recompute.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print or write the tables and the page, from records alone; or check a submission."""
    from latbench.report import leaderboard as report

    names = [name.strip() for name in formats.split(",")]
    if check:
        _check_submission(folders or [RUNS], names if out is not None else [], out, reported, as_json)
        return
    if len(names) > 1 and out is None and not as_json:
        raise ValueError(f"--format {formats} names several formats; give --out DIR, or one format for standard output")
    if all_records and (out is None or "html" not in names):
        raise ValueError("--all-records writes files beside the page; add --format html --out DIR")
    board = report.leaderboard(folders or [RUNS], names, out, reported=reported, all_records=all_records)
    for notice in board.notices:
        note(notice)
    if as_json:
        print_json({"tables": board.text_by_format, "files": board.paths, "notices": board.notices})
    elif out is None:
        say(board.text_by_format[names[0]].rstrip("\n"))
    else:
        note("written: " + ", ".join(map(str, board.paths)))


def _check_submission(
    folders: Sequence[Path], formats: Sequence[str], out: Path | None, reported: bool, as_json: bool
) -> None:
    """Say what does not recompute, also of the files in `out`, and fail where there is anything."""
    from latbench.report import check
    from latbench.report.leaderboard import FORMATS
    from latbench.report.leaderboard import leaderboard as report

    problems, num_checked = check.check(folders)
    if out is not None:
        texts = report(folders, formats, reported=reported).text_by_format
        problems += stale_files({out / FORMATS[name].file_name: text for name, text in texts.items()})
    problems = list(dict.fromkeys(problems))
    if as_json:
        print_json({"evaluations": num_checked, "problems": problems})
    for problem in problems:
        note(f"refused: {problem}")
    if problems:
        raise typer.Exit(FAILED)
    note(f"checked: {num_checked} evaluations, everything recomputes")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Folder of an evaluation or of a run with one, or a run's name.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Paired test of two evaluations, and the questions on which they differ."""
    from latbench.report import compare as report
    from latbench.runs.records import read_evaluation

    found = report.compare(*(read_evaluation(evaluation_folder(name, runs_dir)) for name in (a, b)))
    if as_json:
        print_json(asdict(found))
    else:
        say(report.render(found).rstrip("\n"))


@app.command()
def rerun(
    result: Annotated[Path, typer.Argument(help="Folder with manifest and records.")],
    check: Annotated[
        bool, typer.Option("--check", help="Fail where the accuracy leaves the result's interval.")
    ] = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a result from its manifest and compare the records."""
    from latbench.runs.rerun import rerun as repeat

    use_data_dir(data_dir)
    found = repeat(result, runs_dir=runs_dir)
    if as_json:
        print_json({**asdict(found), "reproduced": found.reproduced})
    else:
        say(
            f"{found.num_identical} of {found.n} records identical; accuracy {found.accuracy_now:.4f}, was "
            f"{found.accuracy_before:.4f} (95 % {found.interval.low:.4f} to {found.interval.high:.4f})"
        )
    for difference in found.differences:
        note(f"not the same: {difference}")
    if check and not found.reproduced:
        note(f"not reproduced: see {found.folder}")
        raise typer.Exit(FAILED)


@app.command()
def trace(
    run: RunArgument = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store each latent step of a run's answers beside its records; repeats continue where they stopped."""
    from latbench.runs.trace import NoLatentStepsError, Traces
    from latbench.runs.trace import trace as trace_run

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device)
    wanted = _plan(target, task, split, limit, samples, settings)
    try:
        found = Traces.open(trace_run(target, wanted))
    except NoLatentStepsError as error:
        note(f"error: {error}")
        raise typer.Exit(FAILED) from None
    if as_json:
        print_json({"folder": found.folder, "n": found.header.n, "num_latents": found.num_latents})
        return
    say(f"{found.folder}: {found.num_latents} latent steps of {found.header.n} answers")
    note(f"next: latbench inspect {target.folder}")


@app.command()
def paths(
    run: RunArgument = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sample distinct correct chains of each question from a run of `cot`, for `latbench parallelism --paths`."""
    from latbench.runs.paths import SAMPLING, sample_paths
    from latbench.runs.plan import plan

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device)
    changes = {**SAMPLING, **_changes(settings, samples)}
    wanted = plan(target.config, task or target.config.task_name, split=split, limit=limit, changes=changes)
    path, found = sample_paths(target, wanted)
    counts = [len(chains) for chains in found.by_id.values()]
    if as_json:
        print_json({"file": path, "source": found.source, "questions": len(counts), "paths": sum(counts)})
        return
    say(f"{path}: {sum(counts)} distinct correct chains of {len(counts)} questions")
    note(f"next: latbench parallelism RUN --paths {path}")


@app.command()
def parallelism(
    run: RunArgument = None,
    paths_file: Annotated[
        Path | None, typer.Option("--paths", help="File of `latbench paths`; the paths that the task knows by default.")
    ] = None,
    max_paths: Annotated[int, typer.Option(min=2, help="Most paths of a question, the gold chain among them.")] = 16,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability from which a quantity counts, of known graphs.")
    ] = 0.1,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much of explicit chains a run's latent steps hold, from its stored trace."""
    from latbench.report.measure_tables import measure_text
    from latbench.report.measures import Measures
    from latbench.runs.parallelism import parallelism as measure

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir))
    wanted = _plan(target, task, split, limit, samples, settings)
    path, found = measure(target, wanted, paths_file=paths_file, max_paths=max_paths, threshold=threshold)
    if as_json:
        print_json({"file": path, **asdict(found)})
        return
    say(measure_text(Measures(parallelism=found)).rstrip("\n"))
    if found.paths is None:
        note("no question has two known paths, so there is no N_eff; sample them from a cot run with `latbench paths`")
    note(f"written: {path}")


@app.command()
def reliance(
    run: RunArgument = None,
    interventions: Annotated[
        str | None, typer.Option(help="Comma-separated: zeros, noise, other, cut<k>; by default these with k to 8.")
    ] = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a run relies on its latent steps: the same questions again with replaced latents."""
    from latbench.report.measure_tables import measure_text
    from latbench.report.measures import Measures, effects
    from latbench.runs.reliance import DEFAULT
    from latbench.runs.reliance import reliance as measure

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device)
    wanted = _plan(target, task, split, limit, samples, settings)
    names = [name.strip() for name in interventions.split(",")] if interventions else DEFAULT
    path, found = measure(target, wanted, names)
    if as_json:
        print_json({"file": path, **asdict(found), "effects": [asdict(effect) for effect in effects(found)]})
        return
    say(measure_text(Measures(reliance=found)).rstrip("\n"))
    note(f"written: {path}")


@app.command()
def cost(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Folders or names; the first is the reference.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of turns; medians are shown.")] = 5,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what an answer costs: operations, and time at batch 1 and full batch, runs taking turns."""
    from latbench.report.formats import markdown_table
    from latbench.report.measure_tables import Measured, measure_tables
    from latbench.report.measures import Measures
    from latbench.runs.cost import cost as measure

    use_data_dir(data_dir)
    names: Sequence[str | None] = runs or [None]
    targets = [load_run(find_run(name, runs_dir), device=device) for name in names]
    wanted = [_plan(target, task, split, limit, samples, settings) for target in targets]
    found = measure(list(zip(targets, wanted, strict=True)), rounds=rounds)
    if as_json:
        print_json({"costs": [{"file": path, **asdict(one)} for path, one in found]})
        return
    lines = [Measured({"run": one.header.run}, [Measures(cost=one)]) for _, one in found]
    for table in measure_tables(lines):
        say(f"{table.title}\n\n{markdown_table(table)}")
    note("written: " + ", ".join(str(path) for path, _ in found))


@app.command()
def inspect(
    run: RunArgument = None,
    question: Annotated[str | None, typer.Option(help="A question, of the split or any other.")] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Question of the split, from 0; the first.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Tokens per latent step.")] = 5,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per question; the first is shown.")] = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one answer with its latent steps as their top tokens; from its trace where that is stored."""
    from latbench.report import inspect_run as report

    if question is not None and index is not None:
        raise ValueError("--question and --index name two questions; give one of them")
    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device)
    wanted = _plan(target, task, split, limit, samples, settings)
    found = report.inspect(target, wanted, index=index or 0, text=question, top=top)
    if as_json:
        print_json(asdict(found))
    else:
        say(report.render(found).rstrip("\n"))


def _plan(
    run: Run, task: str | None, split: str, limit: int | None, samples: int | None, settings: list[str] | None
) -> EvalConfig:
    """The evaluation that a trace or an inspection looks into."""
    from latbench.runs.plan import plan

    name, changes = task or run.config.task_name, _changes(settings, samples)
    return plan(run.config, name, split=split, limit=limit, changes=changes)


def _changes(settings: list[str] | None, samples: int | None) -> dict[str, Any]:
    """What `--set` and `--samples` say of an evaluation, by dotted key."""
    changes = dict(tree.flatten(tree.parse_overrides(settings or [])))
    return changes if samples is None else {**changes, "generate.samples": samples}


@app.command(
    "lm-eval",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness with any run: --model latbench --model_args run=RUN, and its own arguments."""
    try:
        from latbench.integrations import lm_eval_adapter
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "lm_eval":
            raise
        note("error: lm-evaluation-harness is not installed; run `pip install 'latbench[lm-eval]'`")
        raise typer.Exit(FAILED) from None
    try:
        lm_eval_adapter.main(context.args)
    except SystemExit as end:  # of its own parser
        raise typer.Exit(end.code if isinstance(end.code, int) else FAILED * bool(end.code)) from None


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, presets or runs.")],
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Methods, tasks, presets or runs at hand."""
    from latbench.runs.listing import LISTINGS

    if what not in LISTINGS:
        raise registry.unknown("list", what, LISTINGS)
    found = LISTINGS[what](runs_dir)
    if as_json:
        print_json({what: found})
        return
    width = max(map(len, found), default=0)
    for name, text in found.items():
        say(f"{name:{width}}  {text}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns: 0, 1 (failed) or 2 (usage, bad input); errors are one sentence on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also those of transformers
    try:
        code = app(args=given, prog_name="latbench", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        sentences, code = describe(error)
        for sentence in sentences:
            print(f"error: {sentence}", file=sys.stderr)  # whichever of several processes it is
        return code
    if code != INTERRUPTED:
        return int(code or 0)
    option = " --resume" if given[:1] and given[0] in RESUMED_BY_OPTION and "--resume" not in given else ""
    note(f"stopped; `latbench {shlex.join(given)}{option}` continues where it stopped")
    return FAILED
