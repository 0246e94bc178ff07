"""One self-contained HTML page: tables, pictures, records and published numbers; works offline and without a server.

The template, the style sheet and the scripts stand in `templates/`; the page holds them all. What the scripts need is
JSON within the page, and with `record_files` in files beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.report.averages import LEGEND as AVERAGE_LEGEND
from latbench.report.averages import TITLE as AVERAGE_TITLE
from latbench.report.averages import Average
from latbench.report.browse import Asked, Browsable, Choice, browsable, record_chunks, script_text
from latbench.report.cells import Row, main_cells
from latbench.report.chart import chart
from latbench.report.columns import METHOD, meanings
from latbench.report.curves import curves
from latbench.report.reported import LEGEND as REPORTED_LEGEND
from latbench.report.reported import SOURCE, Reported, reported_tables
from latbench.report.reported import TITLE as REPORTED_TITLE
from latbench.report.run_facts import Pool, run_facts, values
from latbench.report.table import Table
from latbench.report.task_sections import NOTHING, Section, section_names
from latbench.report.template import FOLDER, render

RECORD_FILES = "leaderboard-records"  # folder beside the page
SCRIPTS = ("page.js", "tables.js", "runs.js", "records.js", "start.js")  # in this order
CURVE_BYTES, MIN_RUNS = 300_000, 20  # of all training curves on the page; so many runs at least share these
PROMPT_CHARACTERS = 60_000  # of the texts before all questions, and of those after them; different prompts share these
ARXIV = "https://arxiv.org/abs/"
AVERAGE_KEY = "average"  # of its tab; that of a section holds a task and a split
Papers = Mapping[str, Sequence[str]]  # arXiv numbers by method


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A cell of a table on the page."""

    text: str
    figure: str = ""
    """The number that it begins with, for sorting; "" where there is none."""
    href: str = ""
    """Where its text leads; "" leaves it to the script."""
    run: int | None = None
    """Number of the run that its text leads to."""


def to_html(
    runs: Mapping[str, Row],
    sections: Sequence[Section],
    choices: Mapping[Path, Choice],
    asked: Asked,
    reported: Sequence[Reported] = (),
    *,
    averages: Sequence[Average] = (),
    all_records: bool = False,
) -> str:
    """The page.

    Args:
        runs: all rows by the names that the page gives them; `record_files` numbers them in this order.
        sections: their tables.
        choices: what may be shown of their records, by the folder of the evaluation.
        asked: the examples of an evaluation.
        reported: published numbers, shown on demand.
        averages: means over tasks.
        all_records: the files of `record_files` are written beside the page.
    """
    methods = sorted({cell.identity.method for section in sections for cell in section.cells})
    papers = {method: found for method, found in registry.papers().items() if method in methods and found}
    data = _data(runs, sections, choices, asked, all_records) | {"papers": papers}
    return render(
        "page.html",
        sections=[_section(section, methods, papers) for section in sections],
        averages=[_average(average, runs, papers) for average in averages],
        average_title=AVERAGE_TITLE,
        average_legend=AVERAGE_LEGEND,
        tabs=_tabs(sections) + ([(AVERAGE_KEY, AVERAGE_TITLE)] if averages else []),
        legend=[meaning.partition(": ")[::2] for meaning in meanings()],
        nothing=NOTHING,
        reported=[(table, _lines(table, {})) for table in reported_tables(reported)],
        reported_title=REPORTED_TITLE,
        reported_legend=REPORTED_LEGEND,
        style=_file("page.css"),
        script="\n".join(map(_file, SCRIPTS)),
        data=script_text(data),
    )


def record_files(runs: Mapping[str, Row], asked: Asked) -> Iterator[tuple[str, str]]:
    """Names, relative to the page, and texts of the files that hold all records, a part of a run's in each."""
    for number, row in enumerate(runs.values()):
        for index, part in enumerate(record_chunks(row, asked)):
            text = f"latbenchRecords({number}, {index}, {script_text(part)});\n"
            yield f"{RECORD_FILES}/{number}-{index}.js", text


def _section(section: Section, methods: Sequence[str], papers: Papers) -> dict[str, Any]:
    """What the template takes of a section; a method looks alike in the pictures of all sections."""
    tables = [
        {
            "table": table,
            "heading": _heading(table.title),
            "lines": list(zip(table.cells, _lines(table, papers), strict=True)),
        }
        for table in section.tables
    ]
    picture = chart(section.cells, methods=methods)
    return {"section": section, "tables": tables, "mains": main_cells(section.cells), "chart": picture}


def _average(average: Average, runs: Mapping[str, Row], papers: Papers) -> dict[str, Any]:
    """What the template takes of an average: each accuracy leads to the first of its runs."""
    places = {id(row): number for number, row in enumerate(runs.values())}
    lines = []
    for line, shown in zip(average.lines, _lines(average.table, papers), strict=True):
        accuracies = len(shown) - len(average.tasks)
        lead = [
            replace(cell, run=places[id(rows[0])]) for cell, rows in zip(shown[accuracies:], line.rows, strict=True)
        ]
        lines.append([*shown[:accuracies], *lead])
    return {"table": average.table, "lines": lines, "heading": f"{len(average.tasks)} tasks, {average.backbone}"}


def _lines(table: Table, papers: Papers) -> list[list[Shown]]:
    """The cells of a table; a method leads to its first paper, and so does a source that names one on arXiv."""
    return [
        [
            Shown(text=text, href=_href(head.name, text, papers) if head.is_text else "", figure=_figure(text))
            for head, text in zip(table.heads, line, strict=True)
        ]
        for line in table.lines
    ]


def _href(heading: str, text: str, papers: Papers) -> str:
    if heading == METHOD.heading and text in papers:
        return ARXIV + papers[text][0]
    named = registry.ARXIV.search(text) if heading == SOURCE else None
    return ARXIV + named.group(1) if named else ""


def _tabs(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Key and name of each section."""
    return [(re.sub(r"[^\w]+", "-", name), name) for name in section_names(sections)]


def _data(
    runs: Mapping[str, Row],
    sections: Sequence[Section],
    choices: Mapping[Path, Choice],
    asked: Asked,
    all_records: bool,
) -> dict[str, Any]:
    """What the scripts read: all runs, and of each section which of them its lines average over."""
    pool, rows = Pool(), list(runs.values())
    places = {id(row): number for number, row in enumerate(rows)}
    shown = browsable(rows, choices, asked)
    curve_bytes = CURVE_BYTES // max(MIN_RUNS, len(rows))
    prompts = {json.dumps(row.manifest.prompt) for row in rows}
    max_prompt = PROMPT_CHARACTERS // max(1, len(prompts))
    figures = [values(row) for row in rows]
    return {
        "columns": list(figures[0]) if figures else [],
        "runs": [
            {
                "name": name,
                "values": list(figure.values()),
                "facts": run_facts(run.row, pool, max_prompt),
                "curves": curves(run.row.summary.folder, run.row.manifest, curve_bytes),
                "total": run.num_records,
                "records": run.records,
            }
            for name, run, figure in zip(runs, shown, figures, strict=True)
        ],
        "pool": pool.values,
        "files": RECORD_FILES if all_records else None,
        "sections": [
            {
                "lines": [[places[id(row)] for row in cell.rows] for cell in section.cells],
                "questions": _questions(section, {row: shown[place] for row, place in places.items()}),
            }
            for section in sections
        ],
    }


def _questions(section: Section, shown: Mapping[int, Browsable]) -> dict[str, tuple[str, str]]:
    """Questions and gold steps by id: runs of one section were asked the same."""
    rows = [row for cell in section.cells for row in cell.rows]
    return {name: texts for row in rows for name, texts in shown[id(row)].questions.items()}


def _figure(text: str) -> str:
    """The number a cell begins with, for the page's sorting; "" where there is none."""
    first = re.split(r"[ ,/]", text, maxsplit=1)[0].replace("∞", "inf")
    try:
        return str(float(first))
    except ValueError:
        return ""


def _heading(title: str) -> str:
    """The name a table's title begins with; what a long one explains stands below it."""
    return re.split(r"[,:(]", title.rstrip(":"), maxsplit=1)[0].strip()


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
