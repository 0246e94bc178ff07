"""One self-contained HTML page: tables, pictures, records and published numbers; works offline and without a server.

The template, the style sheet and the scripts stand in `templates/`; the page holds them all. What the scripts need is
JSON within the page, and with `record_files` in files beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latbench.report.browse import Asked, Browsable, Choice, browsable, record_chunks, script_text
from latbench.report.cells import Row, main_cells
from latbench.report.chart import chart
from latbench.report.columns import meanings
from latbench.report.curves import curves
from latbench.report.reported import LEGEND as REPORTED_LEGEND
from latbench.report.reported import TITLE as REPORTED_TITLE
from latbench.report.reported import Reported, reported_tables
from latbench.report.run_facts import Pool, run_facts, values
from latbench.report.task_sections import NOTHING, Section
from latbench.report.template import FOLDER, render

RECORD_FILES = "leaderboard-records"  # folder beside the page
SCRIPTS = ("page.js", "tables.js", "runs.js", "records.js", "start.js")  # in this order
CURVE_BYTES, MIN_RUNS = 300_000, 20  # of all training curves on the page; so many runs at least share these


def to_html(
    runs: Mapping[str, Row],
    sections: Sequence[Section],
    choices: Mapping[Path, Choice],
    asked: Asked,
    reported: Sequence[Reported] = (),
    *,
    all_records: bool = False,
) -> str:
    """The page.

    Args:
        runs: all rows by the names that the page gives them; `record_files` numbers them in this order.
        sections: their tables.
        choices: what may be shown of their records, by the folder of the evaluation.
        asked: the examples of an evaluation.
        reported: published numbers, shown on demand.
        all_records: the files of `record_files` stand beside the page.
    """
    methods = sorted({cell.identity.method for section in sections for cell in section.cells})
    shown = [_shown(section, methods) for section in sections]
    return render(
        "page.html",
        sections=shown,
        tabs=_tabs(sections),
        legend=[meaning.partition(": ")[::2] for meaning in meanings()],
        nothing=NOTHING,
        reported=reported_tables(reported),
        reported_title=REPORTED_TITLE,
        reported_legend=REPORTED_LEGEND,
        style=_file("page.css"),
        script="\n".join(map(_file, SCRIPTS)),
        data=script_text(_data(runs, sections, choices, asked, all_records)),
    )


def record_files(runs: Mapping[str, Row], asked: Asked) -> Iterator[tuple[str, str]]:
    """Names, relative to the page, and texts of the files that hold all records, a part of a run's in each."""
    for number, row in enumerate(runs.values()):
        for index, part in enumerate(record_chunks(row, asked)):
            text = f"latbenchRecords({number}, {index}, {script_text(part)});\n"
            yield f"{RECORD_FILES}/{number}-{index}.js", text


def _shown(section: Section, methods: Sequence[str]) -> dict[str, Any]:
    """What the template takes of a section; a method looks alike in the pictures of all sections."""
    tables = [
        {
            "table": table,
            "heading": _heading(table.title),
            "lines": [
                (cell, [(text, _figure(text)) for text in line])
                for cell, line in zip(table.cells, table.lines, strict=True)
            ],
        }
        for table in section.tables
    ]
    picture = chart(section.cells, methods=methods)
    return {"section": section, "tables": tables, "mains": main_cells(section.cells), "chart": picture}


def _tabs(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Key and name of each section; several test sets of one split are told apart by their size and hash."""
    titles = [section.title for section in sections]
    made = []
    for section in sections:
        _, _, n, test_set = section.cells[0].section
        is_alone = titles.count(section.title) == 1
        name = section.title if is_alone else f"{section.title}, n = {n}, {test_set[:4]}"
        made.append((re.sub(r"[^\w]+", "-", name), name))
    return made


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
    budget = CURVE_BYTES // max(MIN_RUNS, len(rows))
    figures = [values(row) for row in rows]
    return {
        "columns": list(figures[0]) if figures else [],
        "runs": [
            _run_data(name, run, pool, figure, budget) for name, run, figure in zip(runs, shown, figures, strict=True)
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


def _run_data(name: str, run: Browsable, pool: Pool, figures: Mapping[str, Any], budget: int) -> dict[str, Any]:
    return {
        "name": name,
        "values": list(figures.values()),
        "facts": run_facts(run.row, pool),
        "curves": curves(run.row.summary.folder, run.row.manifest, budget),
        "total": run.num_records,
        "records": run.records,
    }


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
