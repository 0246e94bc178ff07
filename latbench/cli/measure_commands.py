"""Commands that look into a run's answers: trace, inspect, parallelism, paths, reliance, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latbench.cli.console import (
    FAILED,
    note,
    print_json,
    say,
    use_data_dir,
)
from latbench.cli.options import (
    RUNS,
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    OneTaskOption,
    RunArgument,
    RunsOption,
    SamplesOption,
    SetOption,
    SplitOption,
    TrustOption,
    eval_changes,
)
from latbench.runs.run import Run, find_run, load_run

if TYPE_CHECKING:
    from latbench.evaluation.job import EvalJob

commands = typer.Typer()


@commands.command()
def trace(
    run: RunArgument = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store each latent step of a run's answers beside its records; repeats continue where they stopped.

    Those of the records that the page shows go into latents.json as well, where the run has been evaluated.
    """
    from latbench.measures.latents import StoredTrace
    from latbench.measures.shown_latents import write_latents
    from latbench.measures.trace import NoLatentStepsError
    from latbench.measures.trace import trace as trace_run

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device, trust_remote_code=trust)
    job = _job(target, task, split, limit, samples, settings)
    try:
        found = StoredTrace.open(trace_run(job))
    except NoLatentStepsError as error:
        note(f"error: {error}")
        raise typer.Exit(FAILED) from None

    def decode(token: int) -> str:
        return str(target.method.backbone.tokenizer.decode([token], skip_special_tokens=False))

    shown = write_latents(found.folder.parent, decode)
    if as_json:
        print_json({"folder": found.folder, "n": found.header.n, "num_latents": found.num_latents, "shown": shown})
        return
    say(f"{found.folder}: {found.num_latents} latent steps of {found.header.n} answers")
    if shown is None:
        note("the page shows them once the run is evaluated: `latbench eval`, then this command again")
    note(f"next: latbench inspect {target.folder}")


@commands.command()
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
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one answer with its latent steps as their top tokens; from its trace where that is stored."""
    from latbench.measures import inspect as report

    if question is not None and index is not None:
        raise ValueError("--question and --index name two questions; give one of them")
    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device, trust_remote_code=trust)
    job = _job(target, task, split, limit, samples, settings)
    found = report.inspect(job, index=index or 0, text=question, top=top)
    if as_json:
        print_json(asdict(found))
    else:
        say(report.render(found).rstrip("\n"))


@commands.command()
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
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much of explicit chains a run's latent steps hold, from its stored trace."""
    from latbench.measures.files import Measures
    from latbench.measures.parallelism import parallelism as measure
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import tables_of_run

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), trust_remote_code=trust)
    job = _job(target, task, split, limit, samples, settings)
    path, found = measure(job, paths_file=paths_file, max_paths=max_paths, threshold=threshold)
    if as_json:
        print_json({"file": path, **asdict(found)})
        return
    say(markdown_tables(tables_of_run(Measures(parallelism=found))))
    if found.paths is None:
        note("no question has two known paths, so there is no N_eff; sample them from a cot run with `latbench paths`")
    note(f"written: {path}")


@commands.command()
def paths(
    run: RunArgument = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sample distinct correct chains of each question from a run of `cot`, for `latbench parallelism --paths`."""
    from latbench.evaluation.job import EvalJob
    from latbench.measures.paths import SAMPLING, sample_paths

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device, trust_remote_code=trust)
    changes = {**SAMPLING, **eval_changes(settings, samples)}
    path, found = sample_paths(EvalJob.of(target, task, split=split, limit=limit, changes=changes))
    counts = [len(chains) for chains in found.by_id.values()]
    if as_json:
        print_json({"file": path, "source": found.source, "questions": len(counts), "paths": sum(counts)})
        return
    say(f"{path}: {sum(counts)} distinct correct chains of {len(counts)} questions")
    note(f"next: latbench parallelism RUN --paths {path}")


@commands.command()
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
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a run relies on its latent steps: the same questions again with replaced latents."""
    from latbench.measures.files import Measures, effects
    from latbench.measures.reliance import DEFAULT
    from latbench.measures.reliance import reliance as measure
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import tables_of_run

    use_data_dir(data_dir)
    target = load_run(find_run(run, runs_dir), device=device, trust_remote_code=trust)
    job = _job(target, task, split, limit, samples, settings)
    names = [name.strip() for name in interventions.split(",")] if interventions else DEFAULT
    path, found = measure(job, names)
    if as_json:
        print_json({"file": path, **asdict(found), "effects": [asdict(effect) for effect in effects(found)]})
        return
    say(markdown_tables(tables_of_run(Measures(reliance=found))))
    note(f"written: {path}")


@commands.command()
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
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what an answer costs: operations, and time at batch 1 and full batch, runs taking turns."""
    from latbench.measures.answer_cost import cost as measure
    from latbench.measures.files import Measures
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import Measured, measure_tables
    from latbench.report.table import Head

    use_data_dir(data_dir)
    names: Sequence[str | None] = runs or [None]
    targets = [load_run(find_run(name, runs_dir), device=device, trust_remote_code=trust) for name in names]
    found = measure([_job(target, task, split, limit, samples, settings) for target in targets], rounds=rounds)
    if as_json:
        print_json({"costs": [{"file": path, **asdict(one)} for path, one in found]})
        return
    lines = [Measured((one.header.run,), [Measures(cost=one)]) for _, one in found]
    say(markdown_tables(measure_tables([Head("run", is_text=True)], lines)))
    note("written: " + ", ".join(str(path) for path, _ in found))


def _job(
    run: Run, task: str | None, split: str, limit: int | None, samples: int | None, settings: list[str] | None
) -> EvalJob:
    """The evaluation that a trace or an inspection looks into."""
    from latbench.evaluation.job import EvalJob

    return EvalJob.of(run, task, split=split, limit=limit, changes=eval_changes(settings, samples))
