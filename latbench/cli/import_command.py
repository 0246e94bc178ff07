"""The command that makes a run of a released checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latbench import registry
from latbench.cli.console import note, print_json, say
from latbench.cli.options import (
    RUNS,
    ColumnsOption,
    JsonOption,
    KindOption,
    PromptOption,
    RunsOption,
    SetOption,
    own_data_options,
)
from latbench.config import tree

commands = typer.Typer()


@commands.command("import", rich_help_panel="Runs")
def import_release(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, file or Hugging Face id of a release.")],
    format: Annotated[str | None, typer.Option("--format", help="Format; found out by itself by default.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Its base model, folder or id, where the release has adapters alone.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit of a Hugging Face id.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The run's own task, data file or Hub id; gsm8k by default.")
    ] = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    prompt: PromptOption = None,
    settings: SetOption = None,
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Make a run of a released checkpoint; eval, trace and all other commands then take it."""
    from latbench.runs.importing import plan_import, sentences
    from latbench.runs.train import import_run

    asked = dict(tree.flatten(tree.parse_overrides(settings or [])))
    if task is not None:
        asked["task.name"] = registry.from_file("task", task)
    asked |= own_data_options(columns, kind, prompt)
    plan = plan_import(source, format=format, base=base, revision=revision, settings=asked)
    run = import_run(plan.config, runs_dir=runs_dir, folder=out)
    found = run.report["imported"]
    for sentence in sentences(found):
        note(sentence)
    if as_json:
        print_json({"run": run.folder, **found})
    else:
        say(f"{run.folder}: {run.config.method_name} on {run.config.backbone}, layout {run.config.model.layout}")
        note(f"next: latbench eval {run.folder}")
