"""One self-contained HTML page: tables, pictures, records and published numbers; works offline and without a server.

The template, the style sheet and the script stand in `templates/`; the page holds all three. What the script needs of
the records is JSON within the page, and with `record_files` in files beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latbench.report.browse import Asked, Browsable, Choice, browsable, record_chunks, script_text
from latbench.report.chart import HEIGHT, WIDTH, chart
from latbench.report.columns import meanings
from latbench.report.reported import LEGEND as REPORTED_LEGEND
from latbench.report.reported import TITLE as REPORTED_TITLE
from latbench.report.reported import Reported, reported_tables
from latbench.report.rows import Row
from latbench.report.sections import NOTHING, Section

RECORD_FILES = "leaderboard-records"  # folder beside the page
_TEMPLATES = Path(__file__).parent / "templates"


def to_html(
    rows: Sequence[Row],
    sections: Sequence[Section],
    choices: Mapping[Path, Choice],
    asked: Asked,
    reported: Sequence[Reported] = (),
    *,
    all_records: bool = False,
) -> str:
    """The page.

    Args:
        rows: the runs, in the order in which `record_files` numbers them.
        sections: their tables.
        choices: what may be shown of their records, by the folder of the evaluation.
        asked: the examples of an evaluation.
        reported: published numbers, shown on demand.
        all_records: the files of `record_files` stand beside the page.
    """
    import jinja2

    runs = browsable(rows, choices, asked)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = _sort_key
    environment.filters["heading"] = _heading
    return environment.get_template("page.html").render(
        sections=[(section, chart(section.cells)) for section in sections],
        tabs=_tabs(sections),
        legend=meanings(),
        nothing=NOTHING,
        reported=reported_tables(reported),
        reported_title=REPORTED_TITLE,
        reported_legend=REPORTED_LEGEND,
        width=WIDTH,
        height=HEIGHT,
        style=_file("page.css"),
        script=_file("page.js"),
        data=script_text([_section_data(section, runs, all_records) for section in sections]),
    )


def record_files(rows: Sequence[Row], asked: Asked) -> Iterator[tuple[str, str]]:
    """Names, relative to the page, and texts of the files that hold all records, a part of a run's in each."""
    for number, row in enumerate(rows):
        for index, part in enumerate(record_chunks(row, asked)):
            text = f"latbenchRecords({number}, {index}, {script_text(part)});\n"
            yield f"{RECORD_FILES}/{number}-{index}.js", text


def _tabs(sections: Sequence[Section]) -> list[str]:
    """Names of the sections; several test sets of one split are told apart by their size and hash."""
    titles = [section.title for section in sections]
    keys = [section.cells[0].section for section in sections]
    return [
        title if titles.count(title) == 1 else f"{title}, n = {n}, {test_set[:4]}"
        for title, (_, _, n, test_set) in zip(titles, keys, strict=True)
    ]


def _section_data(section: Section, runs: Sequence[Browsable], all_records: bool) -> dict[str, Any]:
    """Runs and questions of a section; numbers of runs are those of `record_files`."""
    rows = [row for cell in section.cells for row in cell.rows]
    shown, order = set(map(id, rows)), {row.manifest.run: place for place, row in enumerate(rows)}
    own = [(number, run) for number, run in enumerate(runs) if id(run.row) in shown]
    own.sort(key=lambda item: order[item[1].row.manifest.run])
    return {
        "runs": [
            {
                "number": number,
                "name": run.row.manifest.run,
                "method": run.row.manifest.method,
                "variant": run.row.manifest.variant,
                "seed": run.row.manifest.seed,
                "total": run.num_records,
                "files": RECORD_FILES if all_records else None,
                "records": run.records,
            }
            for number, run in own
        ],
        "questions": {id: text for _, run in own for id, text in run.questions.items()},
    }


def _sort_key(text: str) -> str:
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
    return (_TEMPLATES / name).read_text(encoding="utf-8")
