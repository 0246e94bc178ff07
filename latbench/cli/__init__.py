"""The command line: arguments -> RunConfig -> one function call each; commands import what they run, lists no torch."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from latbench.cli import (
    export_command,
    import_command,
    measure_commands,
    new_command,
    report_commands,
    run_commands,
    serve_command,
    sweep_command,
)
from latbench.cli.console import FAILED, note
from latbench.cli.errors import describe

RESUMED_BY_OPTION = ("train", "sweep")  # the others resume when they are repeated
INTERRUPTED = 130  # what Typer returns for Ctrl-C
BAR_AFTER = "2"  # seconds after which libraries that load or download show a bar

app = typer.Typer(
    name="latbench",
    help="Benchmark and evaluation harness for language models that reason in latent vectors.",
    pretty_exceptions_enable=False,
)
for group in (
    run_commands,
    sweep_command,
    import_command,
    export_command,
    serve_command,
    report_commands,
    measure_commands,
    new_command,
):
    app.add_typer(group.commands)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"latbench {importlib.metadata.version('latbench')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The option stands here for `--help`; `main` takes it out of any place."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns: 0, 1 (failed) or 2 (usage, bad input); errors are one sentence on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    os.environ.setdefault("TQDM_DELAY", BAR_AFTER)
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
