"""Commands that show results: leaderboard, compare, list; and lm-evaluation-harness."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from latbench.cli.console import (
    FAILED,
    note,
    print_json,
    say,
    stale_files,
)
from latbench.cli.options import (
    RUNS,
    ColumnsOption,
    JsonOption,
    KindOption,
    PromptOption,
    RunsOption,
    own_data_options,
)

if TYPE_CHECKING:
    from latbench.report.leaderboard import LeaderboardResult
    from latbench.submission import Checked

commands = typer.Typer()


@commands.command(rich_help_panel="Results")
def leaderboard(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="./runs by default.")] = None,
    formats: Annotated[
        str | None,
        typer.Option("--format", help="Comma-separated: md, csv, latex, html. By default md, a table in a terminal."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to instead of standard output.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Regular expression: rows whose '<task> <method> <variant>' it fits.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy against chain length: FILE.png or FILE.svg.")] = None,
    reported: Annotated[bool, typer.Option("--reported", help="Add the numbers that papers report, as such.")] = False,
    all_records: Annotated[bool, typer.Option("--all-records", help="Every record, in files beside the page.")] = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Leave questions of data sets out of the page, as for one to publish.")
    ] = False,
    legend: Annotated[bool, typer.Option("--legend", help="Say below the table what its columns mean.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail where scores, metrics, identities or files do not recompute.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of --check; by default one per core, eight at most.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With --check, look also at what passed here before and has not changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print or write the tables and the page, from records alone; or check a submission."""
    from latbench.evaluation.asked import asked, asked_of_generated
    from latbench.report import leaderboard as report
    from latbench.report import picture
    from latbench.report.run_facts import values
    from latbench.report.terminal import to_terminal

    names = [name.strip() for name in (formats or "md").split(",")]
    if check:
        if only is not None or plot is not None:
            raise ValueError("--check looks at all results; leave out --only and --plot")
        again_made = partial(report.leaderboard, reported=reported, asked=asked_of_generated if no_data else asked)
        checked = _checked(folders or [RUNS], names if out is not None else [], out, again_made, workers, again)
        _tell_checked(checked, as_json)
        return
    if workers is not None or again:
        raise ValueError("--workers and --again belong to --check")
    if len(names) > 1 and out is None and not as_json:
        raise ValueError(f"--format {formats} names several formats; give --out DIR, or one format for standard output")
    if all_records and (out is None or "html" not in names):
        raise ValueError("--all-records writes files beside the page; add --format html --out DIR")
    if plot is not None:
        picture.refuse_format(plot)  # before a table is written
    is_table = formats is None and out is None and (as_json or sys.stdout.isatty())
    board = report.leaderboard(
        folders or [RUNS],
        () if is_table else names,
        out,
        only=only,
        reported=reported,
        all_records=all_records,
        asked=asked_of_generated if no_data else asked,
    )
    if plot is not None:
        picture.plot(board.cells, plot)
        note(f"written: {plot}")
    for notice in board.notices:
        note(notice)
    if as_json:
        found = {"rows": list(map(values, board.rows)), "averages": [average.values() for average in board.averages]}
        print_json({**found, "tables": board.text_by_format, "files": board.paths, "notices": board.notices})
    elif is_table:
        console = Console()
        shown = to_terminal(board.sections, console.width, averages=board.averages, with_legend=legend)
        console.print(*shown, sep="\n")
    elif out is None:
        say(board.text_by_format[names[0]].rstrip("\n"))
    else:
        note("written: " + ", ".join(map(str, board.paths)))


def _checked(
    folders: Sequence[Path],
    formats: Sequence[str],
    out: Path | None,
    board: Callable[..., LeaderboardResult],
    workers: int | None,
    again: bool,
) -> Checked:
    """What does not recompute in the folders, and which files in `out` are not what `board` gives for them."""
    from latbench.report.leaderboard import FORMATS
    from latbench.submission import check

    checked = check(folders, workers=workers or min(8, os.cpu_count() or 1), incremental=True, again=again)
    stale: list[str] = []
    if out is not None:
        texts = board(folders, formats).text_by_format
        stale = stale_files({out / FORMATS[name].file_name: text for name, text in texts.items()})
    return replace(checked, problems=list(dict.fromkeys([*checked.problems, *stale])))


def _tell_checked(checked: Checked, as_json: bool) -> None:
    """Say what does not recompute, and fail where there is anything."""
    problems = checked.problems
    if as_json:
        print_json({"evaluations": checked.num_evaluations, "problems": problems, "caveats": checked.caveats})
    for caveat in checked.caveats:
        note(f"mind: {caveat}")
    for problem in problems:
        note(f"refused: {problem}")
    if problems:
        raise typer.Exit(FAILED)
    before = f" ({checked.num_before} of them passed before and have not changed)" if checked.num_before else ""
    note(
        f"checked: {checked.num_evaluations} evaluations{before}; "
        "scores, identities, lengths and tables recompute from what is there"
    )


@commands.command(rich_help_panel="Results")
def compare(
    a: Annotated[str, typer.Argument(help="Folder of an evaluation or of a run with one, or a run's name.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Paired test of two evaluations, and the questions on which they differ."""
    from latbench.evaluation import compare as report
    from latbench.evaluation.records import read_evaluation
    from latbench.report.leaderboard import evaluation_in
    from latbench.runs.run import find_run

    found = report.compare(*(read_evaluation(evaluation_in(find_run(name, runs_dir))) for name in (a, b)))
    if as_json:
        print_json(asdict(found))
    else:
        say(report.render(found).rstrip("\n"))


@commands.command("list", rich_help_panel="Results")
def list_(
    what: Annotated[str | None, typer.Argument(help="methods, tasks, presets, runs or keys.")] = None,
    method: Annotated[str | None, typer.Option(help="Of keys: those that this method reads too.")] = None,
    task: Annotated[str | None, typer.Option(help="Of keys: those that this task reads too.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Of keys: the page of all of them.")] = False,
    runs_dir: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Methods, tasks, presets, runs or configuration keys at hand; without argument, what can be listed."""
    from latbench import listing

    if what is None:
        say("\n".join(f"latbench list {name}" for name in (*listing.LISTS, listing.KEYS)))
        return
    if what == listing.KEYS:
        _list_keys(method, task, markdown, as_json)
        return
    if method is not None or task is not None or markdown:
        raise ValueError(f"--method, --task and --markdown belong to `latbench list keys`, not to `list {what}`")
    if as_json:
        print_json({what: listing.rows(what, runs_dir)})
    else:
        _say_texts(listing.texts(what, runs_dir))


def _say_texts(texts: Mapping[str, str]) -> None:
    """Names and what is said of each: fitted to a terminal, a line for each where standard output is piped."""
    if sys.stdout.isatty():
        from latbench.report.terminal import names_and_texts

        console = Console()
        console.print(names_and_texts(texts, console.width))
        return
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        say(f"{name:{width}}  {text}".rstrip())


def _list_keys(method: str | None, task: str | None, markdown: bool, as_json: bool) -> None:
    from latbench.cli.keys_page import configuration_page
    from latbench.listing import keys

    if markdown:
        say(configuration_page().rstrip("\n"))
        return
    found = keys(method, task)
    if as_json:
        print_json({"keys": [asdict(key) for key in found]})
        return
    for key in found:
        say(f"{key.name}={key.default}  ({key.type})\n    {key.meaning}".rstrip())


@commands.command(
    "lm-eval",
    rich_help_panel="Results",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lm_eval(
    context: typer.Context, columns: ColumnsOption = None, kind: KindOption = None, prompt: PromptOption = None
) -> None:
    """lm-evaluation-harness with any run: --model latbench --model_args run=RUN, and its own arguments."""
    try:
        from latbench.integrations import lm_eval_adapter
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "lm_eval":
            raise
        note("error: lm-evaluation-harness is not installed; run `pip install 'latbench[lm-eval]'`")
        raise typer.Exit(FAILED) from None
    try:
        lm_eval_adapter.main(context.args, own_data_options(columns, kind, prompt))
    except SystemExit as end:  # of its own parser
        raise typer.Exit(end.code if isinstance(end.code, int) else FAILED * bool(end.code)) from None
