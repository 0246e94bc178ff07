"""Commands that look into a run's answers: trace, inspect, parallelism, paths, reliance, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latbench.cli.console import FAILED, note, print_json, say
from latbench.cli.measuring import Asked, measuring
from latbench.cli.options import ShardOption
from latbench.cli.sharding import OpenParts, chosen_shard
from latbench.runs.lock import is_main_process

commands = typer.Typer()
PANEL = "Measures"


@commands.command(rich_help_panel=PANEL)
@measuring
def trace(asked: Asked, shard: ShardOption = None) -> None:
    """Store each latent step of a run's answers beside its records; repeats continue where they stopped.

    Those of the records that the page shows go into latents.json as well, where the run has been evaluated.
    """
    from latbench.measures.latents import StoredTrace
    from latbench.measures.shown_latents import write_latents
    from latbench.measures.trace import NoLatentStepsError, lost_shards
    from latbench.measures.trace import trace as trace_run

    part = chosen_shard(shard)
    target = asked.job.run
    try:
        folder = trace_run(asked.job, part)
    except NoLatentStepsError as error:
        note(f"error: {error}")
        raise typer.Exit(FAILED) from None
    if part and (lost := lost_shards(asked.job, part)):
        _tell_open(asked, OpenParts.of(folder, part, lost))
        return
    if not is_main_process():
        return
    found = StoredTrace.open(folder)

    def decode(token: int) -> str:
        return str(target.method.backbone.tokenizer.decode([token], skip_special_tokens=False))

    shown = write_latents(found.folder.parent, decode)
    if asked.as_json:
        print_json({"folder": found.folder, "n": found.header.n, "num_latents": found.num_latents, "shown": shown})
        return
    say(f"{found.folder}: {found.num_latents} latent steps of {found.header.n} answers")
    if shown is None:
        note("the page shows them once the run is evaluated: `latbench eval`, then this command again")
    note(f"next: latbench inspect {target.folder if shown is None else found.folder.parent}")


@commands.command(rich_help_panel=PANEL)
@measuring
def inspect(
    asked: Asked,
    question: Annotated[str | None, typer.Option(help="A question, of the split or any other.")] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Question of the split, from 0; the first.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Tokens per latent step.")] = 5,
) -> None:
    """Show one answer with its latent steps as their top tokens; from its trace where that is stored.

    RUN may also be a folder of results/, whose model is not at hand: its latents.json has some answers' latent steps.
    """
    from latbench.evaluation.records import MANIFEST
    from latbench.evaluation.stored import run_of
    from latbench.measures import inspect as report

    if question is not None and index is not None:
        raise ValueError("--question and --index name two questions; give one of them")
    stored = Path(asked.run or "")
    if (stored / MANIFEST).is_file() and run_of(stored) is None:
        found = report.inspect_stored(stored, index=index, text=question, top=top)
    else:
        found = report.inspect(asked.job, index=index or 0, text=question, top=top)
    if asked.as_json:
        print_json(asdict(found))
    else:
        say(report.render(found).rstrip("\n"))


@commands.command(rich_help_panel=PANEL)
@measuring
def parallelism(
    asked: Asked,
    paths_file: Annotated[
        Path | None, typer.Option("--paths", help="File of `latbench paths`; the paths that the task knows by default.")
    ] = None,
    max_paths: Annotated[int, typer.Option(min=2, help="Most paths of a question, the gold chain among them.")] = 16,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability from which a quantity counts, of known graphs.")
    ] = 0.1,
) -> None:
    """Measure how much of explicit chains a run's latent steps hold, from its stored trace."""
    from latbench.measures.measure_files import Measures
    from latbench.measures.parallelism import parallelism as measure
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import tables_of_run

    path, found = measure(asked.job, paths_file=paths_file, max_paths=max_paths, threshold=threshold)
    if asked.as_json:
        print_json({"file": path, **asdict(found)})
        return
    say(markdown_tables(tables_of_run(Measures(parallelism=found))))
    if found.paths is None:
        note("no question has two known paths, so there is no N_eff; sample them from a cot run with `latbench paths`")
    note(f"written: {path}")


@commands.command(rich_help_panel=PANEL)
@measuring
def paths(asked: Asked) -> None:
    """Sample distinct correct chains of each question from a run of `cot`, for `latbench parallelism --paths`."""
    from latbench.measures.paths import SAMPLING, sample_paths

    path, found = sample_paths(asked.job_named(asked.run, SAMPLING))
    counts = [len(chains) for chains in found.by_id.values()]
    if asked.as_json:
        print_json({"file": path, "source": found.source, "questions": len(counts), "paths": sum(counts)})
        return
    say(f"{path}: {sum(counts)} distinct correct chains of {len(counts)} questions")
    note(f"next: latbench parallelism RUN --paths {path}")


@commands.command(rich_help_panel=PANEL)
@measuring
def reliance(
    asked: Asked,
    interventions: Annotated[
        str | None, typer.Option(help="Comma-separated: zeros, noise, other, cut<k>; by default these with k to 8.")
    ] = None,
    shard: ShardOption = None,
) -> None:
    """Measure how far a run relies on its latent steps: the same questions again with replaced latents."""
    from latbench.measures.measure_files import Measures, effects
    from latbench.measures.reliance import DEFAULT, lost_shards
    from latbench.measures.reliance import reliance as measure
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import tables_of_run

    part = chosen_shard(shard)
    names = [name.strip() for name in interventions.split(",")] if interventions else DEFAULT
    path, found = measure(asked.job, names, part)
    if found is None:
        assert part is not None, "without a shard there is a file"
        _tell_open(asked, OpenParts.of(path, part, lost_shards(asked.job, names, part)))
        return
    if asked.as_json:
        print_json({"file": path, **asdict(found), "effects": [asdict(effect) for effect in effects(found)]})
        return
    say(markdown_tables(tables_of_run(Measures(reliance=found))))
    note(f"written: {path}")


@commands.command(rich_help_panel=PANEL)
@measuring
def cost(
    asked: Asked,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Folders or names, as elsewhere; the first is the reference."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of turns; medians are shown.")] = 5,
) -> None:
    """Measure what an answer costs: operations, and time at batch 1 and full batch, runs taking turns."""
    from latbench.measures.answer_cost import cost as measure
    from latbench.measures.measure_files import Measures
    from latbench.report.markdown import markdown_tables
    from latbench.report.measure_tables import Measured, measure_tables
    from latbench.report.table import Head

    names: Sequence[str | None] = runs or [None]
    found = measure([asked.job_named(name) for name in names], rounds=rounds)
    if asked.as_json:
        print_json({"costs": [{"file": path, **asdict(one)} for path, one in found]})
        return
    lines = [Measured((one.header.run,), [Measures(cost=one)]) for _, one in found]
    say(markdown_tables(measure_tables([Head("run", is_text=True)], lines)))
    note("written: " + ", ".join(str(path) for path, _ in found))


def _tell_open(asked: Asked, parts: OpenParts) -> None:
    """Say that a part is done, and which others are open."""
    if asked.as_json:
        print_json({"open": [asdict(parts)]})
    else:
        say(parts.sentence)
