"""The command that shares a run."""

from __future__ import annotations

from typing import Annotated

import typer

from latbench.cli.console import note, print_json, say
from latbench.cli.options import RUNS, JsonOption, RunsOption
from latbench.runs.run import find_run, load_run

commands = typer.Typer()


@commands.command(rich_help_panel="Runs")
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name.")],
    target: Annotated[str, typer.Argument(metavar="DIR|hub:ID", help="New folder, or repository OWNER/NAME.")],
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Of the weights, as the Hub names it; the base model's by default."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Write a run as a plain Hugging Face model with a model card, which every command takes as RUN."""
    from latbench.exporting import export as write

    written = write(load_run(find_run(run, runs_dir)), target, licence=licence, private=private)
    if as_json:
        print_json({"written": written})
        return
    say(written)
    note(f"next: latbench eval {written}" if not target.startswith("hub:") else "its page has the model card")
