"""The leaderboard: evaluation folders in, tables, page and notices out; reads records only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latbench.evaluation.metrics import Summary, readable, summarise
from latbench.evaluation.records import MANIFEST, SHARDS, Evaluation, read_evaluation, records_path
from latbench.measures.measure_files import Measures, read_measures
from latbench.registry import unknown
from latbench.report.averages import Average, averages
from latbench.report.browse import Asked, Choice, nothing_at_hand
from latbench.report.cells import Cell, Identity, Row, cells, ranked, rows
from latbench.report.csv import to_csv
from latbench.report.latex import to_latex
from latbench.report.markdown import to_markdown
from latbench.report.page import record_files, to_html
from latbench.report.reported import Reported, find_reported, read_reported, reported_markdown
from latbench.report.run_facts import places, values
from latbench.report.task_sections import Section, report_sections
from latbench.util.files import write_whole

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a format shows."""

    rows: Sequence[Row]
    runs: Mapping[str, Row]
    """The same by the names that the page gives them."""
    sections: Sequence[Section]
    """Their tables."""
    averages: Sequence[Average]
    """Means over tasks of what stands in several of them."""
    choices: Mapping[Path, Choice]
    """What the page may show of their records, by folder."""
    asked: Asked
    """The examples of an evaluation, for the page."""
    published: Sequence[Reported]
    """Numbers of papers, for the page, which shows them on demand."""
    reported: Sequence[Reported]
    """Numbers of papers, for the other formats, which show what is asked for."""
    all_records: bool
    """Whether every record stands in files beside the page."""


@dataclass(frozen=True)
class Format:
    """A way to write the leaderboard: the ending of its file, and its text."""

    suffix: str
    render: Callable[[Board], str]

    @property
    def file_name(self) -> str:
        """Name of the file in the folder given."""
        return f"leaderboard.{self.suffix}"


def _markdown(board: Board) -> str:
    measured = to_markdown(board.sections, board.averages)
    return f"{measured}\n{reported_markdown(board.reported)}" if board.reported else measured


def _page(board: Board) -> str:
    return to_html(
        board.runs,
        board.sections,
        board.choices,
        board.asked,
        board.published,
        averages=board.averages,
        all_records=board.all_records,
    )


FORMATS: Mapping[str, Format] = {
    "md": Format("md", _markdown),
    "csv": Format("csv", lambda board: to_csv(board.rows)),
    "latex": Format("tex", lambda board: to_latex(board.sections, board.reported, board.averages)),
    "html": Format("html", _page),
}


@dataclass(frozen=True, kw_only=True)
class LeaderboardResult:
    """What the command prints and draws."""

    text_by_format: Mapping[str, str]
    """The tables."""
    notices: tuple[str, ...]
    """One sentence each on what was left out or could not be read."""
    rows: tuple[Row, ...]
    """All runs that are shown."""
    sections: tuple[Section, ...]
    """Their tables."""
    averages: tuple[Average, ...]
    """Means over tasks."""
    cells: tuple[Cell, ...]
    """The lines of the tables, for a picture."""
    paths: tuple[Path, ...]
    """The files written."""

    def to_pandas(self) -> DataFrame:
        """One line per run, with the columns of the CSV."""
        from pandas import DataFrame

        return DataFrame([values(row) for row in self.rows])


def leaderboard(
    folders: Sequence[Path],
    formats: Sequence[str] = ("md",),
    out: Path | None = None,
    *,
    only: str | None = None,
    reported: bool = False,
    all_records: bool = False,
    asked: Asked = nothing_at_hand,
) -> LeaderboardResult:
    """Tables of all evaluations under the folders; what cannot be counted is left out and named in a notice.

    Args:
        folders: are searched for evaluations.
        formats: names among `FORMATS`.
        out: folder for `leaderboard.<suffix>`; None writes nothing.
        only: regular expression, searched for in "<task> <method> <variant>" of a row; rows without it are left out.
        reported: with the numbers that papers report (`reported.find_reported`), in a part of their own.
        all_records: write every record beside the page, not the page's choice alone.
        asked: the examples of an evaluation, whose questions the page shows; none by default.
    Raises: ValueError: unknown format, missing folder, no evaluation, none that `only` fits, no reported numbers, or
        `out` cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    wanted = None if only is None else _expression(only)  # before anything is read
    choices: dict[Path, Choice] = {}

    def choose(evaluation: Evaluation) -> None:
        choices[evaluation.folder] = Choice.of(evaluation.records)

    found = load(folders, choose if "html" in formats else None)
    board_rows = ranked(found.rows if wanted is None else _fitting(found.rows, wanted))
    runs = dict(zip(places(board_rows, folders), board_rows, strict=True))
    path = find_reported(folders)
    if reported and path is None:
        raise ValueError("no reported.csv in the folders given; name one that has it, such as results/ of the checkout")
    published = read_reported(path) if path is not None and (reported or "html" in formats) else []
    sections = report_sections(board_rows)
    board = Board(
        rows=board_rows,
        runs=runs,
        sections=sections,
        averages=averages(sections),
        choices=choices,
        asked=asked,
        published=published,
        reported=published if reported else (),
        all_records=all_records,
    )
    texts = {name: FORMATS[name].render(board) for name in formats}
    paths: tuple[Path, ...] = ()
    if out is not None:
        paths = _write(((FORMATS[name].file_name, text) for name, text in texts.items()), out)
        if all_records and "html" in formats:
            _write(record_files(runs, asked), out)
    return LeaderboardResult(
        text_by_format=texts,
        notices=tuple(found.notices),
        rows=tuple(board_rows),
        sections=tuple(board.sections),
        averages=tuple(board.averages),
        cells=tuple(cells(board_rows)),
        paths=paths,
    )


def _expression(only: str) -> re.Pattern[str]:
    try:
        return re.compile(only)
    except re.error as error:
        raise ValueError(f"--only {only!r} is no regular expression: {error}") from None


def _fitting(rows: Sequence[Row], wanted: re.Pattern[str]) -> list[Row]:
    names = [f"{row.identity.task} {row.identity.method} {row.identity.variant}".strip() for row in rows]
    if kept := [row for row, name in zip(rows, names, strict=True) if wanted.search(name)]:
        return kept
    raise ValueError(f"--only {wanted.pattern!r} fits none of {len(rows)} rows; the first is {names[0]!r}")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The rows of all evaluations under some folders, and a sentence on each that could not be used."""

    rows: list[Row]
    notices: list[str]


def load(folders: Sequence[Path], look: Callable[[Evaluation], None] | None = None) -> Loaded:
    """Read all evaluations under the folders, one in memory at a time.

    Args:
        folders: are searched at any depth.
        look: called with each evaluation that counts.
    Raises: ValueError: a folder does not exist, or there is no evaluation in any.
    """
    summaries: list[Summary] = []
    measures: dict[Path, Measures] = {}
    notices: list[str] = []
    found = list(find_evaluations(folders))
    if not found:
        where = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no evaluation found under {where}; name its folder, or make one with `latbench eval`")
    for folder in found:
        try:
            stored = read_evaluation(folder)
        except (ValueError, OSError) as error:
            notices.append(f"left out: {error}")
            continue
        evaluation = readable(stored)
        if stored.num_bad_lines:
            notice = f"{folder}: {stored.num_bad_lines} unreadable lines were passed over"
            if evaluation is not stored:
                notice += f"; what is left, {len(evaluation.records)} records, has a table of its own"
            notices.append(notice)
        try:
            summaries.append(summarise(evaluation))
        except ValueError as error:
            notices.append(f"left out: {error}")
            continue
        measures[folder], unusable = read_measures(evaluation)
        notices += unusable
        if look is not None:
            look(evaluation)
    return Loaded(rows=rows(_without_repeats(summaries, notices), measures), notices=notices)


def find_evaluations(folders: Iterable[Path]) -> Iterator[Path]:
    """Folders with a manifest and records, each once, sorted by path within each given folder.

    Hidden folders, and the parts of a sharded evaluation, are passed over; links are followed only where given.
    Raises: ValueError: a folder does not exist.
    """
    seen: set[Path] = set()
    for top in folders:
        if not top.is_dir():
            raise ValueError(f"folder {str(top)!r} does not exist; name one that holds evaluations")
        for name, children, files in os.walk(top):
            children[:] = sorted(child for child in children if not child.startswith(".") and child != SHARDS)
            folder = Path(name)
            if MANIFEST in files and records_path(folder) and folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def evaluation_in(folder: Path) -> Path:
    """The one evaluation at or below a folder, such as that of a run. Raises: ValueError: none, or several."""
    found = list(find_evaluations([folder]))
    if len(found) == 1:
        return found[0]
    what = "no evaluation" if not found else f"{len(found)} evaluations"
    way_out = "make one with `latbench eval`" if not found else f"name one, such as {found[0]}"
    raise ValueError(f"{folder} holds {what}; {way_out}")


def _without_repeats(summaries: Sequence[Summary], notices: list[str]) -> list[Summary]:
    """One summary per cell and seed: a repeat or a copy would pass for another seed and narrow the interval."""
    kept: dict[object, Summary] = {}
    for summary in summaries:
        key = (Identity.of(summary.manifest), summary.manifest.seed, summary.test_set, summary.samples)
        first = kept.setdefault(key, summary)
        if first is not summary:
            notices.append(f"left out: {summary.folder}: it has the setting and the seed of {first.folder}")
    return list(kept.values())


def _write(texts: Iterable[tuple[str, str]], out: Path) -> tuple[Path, ...]:
    """Each (name, text) into its file, written beside and renamed."""
    paths = []
    try:
        for name, text in texts:
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
            paths.append(path)
    except OSError as error:
        raise ValueError(
            f"cannot write to --out {out}: {error.strerror}; choose a folder that can be written"
        ) from None
    return tuple(paths)
