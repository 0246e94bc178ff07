"""One self-contained HTML page: tables, pictures, records and published numbers; works offline and without a server.

The template, the style sheet and the script stand in `templates/`; the page holds all three. What the script needs of
the records is JSON within the page, and with `record_files` in files beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latbench.evaluation.metrics import Summary
from latbench.measures.files import Measures
from latbench.report import formats
from latbench.report.browse import Browsable, Choice, browsable, record_chunks, script_text
from latbench.report.chart import HEIGHT, WIDTH, chart
from latbench.report.reported import LEGEND as REPORTED_LEGEND
from latbench.report.reported import TITLE as REPORTED_TITLE
from latbench.report.reported import Reported, reported_tables
from latbench.report.table import Row

RECORD_FILES = "leaderboard-records"  # folder beside the page
_TEMPLATES = Path(__file__).parent / "templates"


def to_html(
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    choices: Mapping[Path, Choice],
    reported: Sequence[Reported] = (),
    *,
    measures: Mapping[Path, Measures] | None = None,
    all_records: bool = False,
) -> str:
    """The page.

    Args:
        summaries: the runs of the rows; choices, measures: what may be shown of their records, and what was measured
            of them, by folder.
        all_records: the files of `record_files` stand beside the page.
    """
    import jinja2

    runs = browsable(summaries, choices, measures or {})
    sections = formats.report_sections(rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = _sort_key
    environment.filters["heading"] = _heading
    return environment.get_template("page.html").render(
        sections=[(section, chart(section.cells)) for section in sections],
        tabs=_tabs(sections),
        legend=[item.removeprefix("- ") for item in formats.LEGEND.replace("\n  ", " ").splitlines()],
        nothing=formats.NOTHING,
        reported=reported_tables(reported),
        reported_title=REPORTED_TITLE,
        reported_legend=REPORTED_LEGEND,
        width=WIDTH,
        height=HEIGHT,
        style=_file("page.css"),
        script=_file("page.js"),
        data=script_text([_section_data(section, runs, all_records) for section in sections]),
    )


def record_files(summaries: Sequence[Summary], measures: Mapping[Path, Measures]) -> Iterator[tuple[str, str]]:
    """Names, relative to the page, and texts of the files that hold all records, a part of a run's in each."""
    for number, summary in enumerate(summaries):
        for index, part in enumerate(record_chunks(summary, measures.get(summary.folder))):
            text = f"latbenchRecords({number}, {index}, {script_text(part)});\n"
            yield f"{RECORD_FILES}/{number}-{index}.js", text


def _tabs(sections: Sequence[formats.Section]) -> list[str]:
    """Names of the sections; several test sets of one split are told apart by their size and hash."""
    titles = [section.title for section in sections]
    keys = [section.cells[0].section for section in sections]
    return [
        title if titles.count(title) == 1 else f"{title}, n = {n}, {test_set[:4]}"
        for title, (_, _, n, test_set) in zip(titles, keys, strict=True)
    ]


def _section_data(section: formats.Section, runs: Sequence[Browsable], all_records: bool) -> dict[str, Any]:
    """Runs and questions of a section; numbers of runs are those of `record_files`."""
    key = section.cells[0].section
    own = [
        (number, run)
        for number, run in enumerate(runs)
        if (run.summary.manifest.task, run.summary.manifest.split, run.summary.n, run.summary.test_set) == key
    ]
    order = {row.run: place for place, row in enumerate(row for cell in section.cells for row in cell.rows)}
    own.sort(key=lambda item: order.get(item[1].summary.manifest.run, len(order)))
    return {
        "runs": [
            {
                "number": number,
                "name": run.summary.manifest.run,
                "method": run.summary.manifest.method,
                "variant": run.summary.manifest.variant,
                "seed": run.summary.manifest.seed,
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
