"""Rows as CSV, cells as tables of text, and these as Markdown: the same wherever and whenever they are made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from latbench.evaluation.statistics import Interval
from latbench.report.table import Cell, Row, cells, sections

DASH = "–"
IDENTITY_COLUMNS = {"backbone": "backbone", "layout": "layout", "train_data": "training data"}
LEGEND = """\
- Accuracy (%) is pass@1; it, pass@k (unbiased, of so many of the k answers to a question) and maj@k (of all k) have a
  95 % interval: Wilson's for a single run, Student's t over seeds for several, which has no width where they all agree
  and then says nothing of other questions.
- #L is the chain length: latent steps plus explicit reasoning tokens, without markers, answer and EOS. Its 95 %
  interval is Student's t, over questions for a single run, over seeds for several.
- Compression is the mean #L of the reference named with each table / mean #L; its 95 % interval is Student's t, over
  questions (each with its own reference) for a single run, over seeds for several; a dash stands where #L is 0 or there
  is no reference.
- Answer tokens and decode steps are means per answer.
- No answer, timeout (of the checker), truncated (at a cap) and too long (prompt beyond the context: counted as wrong,
  left out of lengths) are % of answers.
- Passes (over the training examples) and training FLOPs include those of the run that a run starts from; what a method
  prepares between its stages, such as soft labels, is left out."""
NOTHING = "No complete evaluation."
TEXT_COLUMNS = (
    "method", "variant", "setting", *IDENTITY_COLUMNS.values(), "trained on", "source", "read from", "latents",
    "paths", "threshold", "circumstances",
)  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """One line per run; numbers with six significant digits."""
    names = [f.name for f in fields(Row) if f.name not in ("measures", "unknown_length")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_field(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as plain text, whatever it is written in; `title` is "" for the main one of a section."""

    title: str = ""
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def is_text(self, heading: str) -> bool:
        """Whether a column holds words (aligned left), not figures."""
        return heading in TEXT_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is comparable: the tables of one task, split and test set, with the facts that all their cells share."""

    title: str
    facts: str
    tables: tuple[Table, ...]
    cells: tuple[Cell, ...]


def report_sections(rows: Sequence[Row]) -> list[Section]:
    """The tables of every format, one line per cell."""
    return [_section(section) for section in sections(cells(rows))]


def to_markdown(rows: Sequence[Row]) -> str:
    """One part per task, split and test set, one line per cell, and what its numbers mean."""
    parts = ["# Leaderboard", LEGEND]
    parts += [_markdown_section(section) for section in report_sections(rows)] or [NOTHING]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """The table alone, in GitHub's dialect."""
    from tabulate import tabulate

    return tabulate(
        [[markdown_text(text) for text in line] for line in table.lines],
        headers=[markdown_text(name) for name in table.headings],
        tablefmt="github",
        disable_numparse=True,
        colalign=["left" if table.is_text(name) else "right" for name in table.headings],
    )


def _markdown_section(section: Section) -> str:
    tables = [part for table in section.tables for part in (table.title, markdown_table(table)) if part]
    return "\n\n".join([f"## {markdown_text(section.title)}", markdown_text(section.facts), *tables])


def _section(section: Sequence[Cell]) -> Section:
    from latbench.report.measure_tables import Measured, measure_tables  # here: it is made of what stands here

    task, split, n, test_set = section[0].section
    columns = _columns(section)
    tables = [_table(section, columns)]
    reporting = [cell for cell in section if any(row.diagnostics for row in cell.rows)]
    if reporting:
        tables.append(_table(reporting, _diagnostics(reporting), "What training reported (means over seeds):"))
    names = {name: text for name, text in columns.items() if name in TEXT_COLUMNS}
    tables += measure_tables(
        [
            Measured({n: text(cell) for n, text in names.items()}, [row.measures for row in cell.rows])
            for cell in section
        ]
    )
    common = "".join(
        f" {title.capitalize()}: {getattr(section[0].rows[0], name)}."
        for name, title in IDENTITY_COLUMNS.items()
        if title not in columns
    )
    facts = f"{n} questions (test set {test_set}). Reference for compression: {_references(section)}.{common}"
    return Section(title=f"{task} / {split}", facts=facts, tables=tuple(tables), cells=tuple(section))


def _table(section: Sequence[Cell], columns: Mapping[str, Callable[[Cell], str]], title: str = "") -> Table:
    lines = tuple(tuple(text(cell) for text in columns.values()) for cell in section)
    return Table(title=title, headings=tuple(columns), lines=lines)


def _diagnostics(section: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """Method, variant, the seeds that reported, and every figure that some cell's method reported."""
    names = dict.fromkeys(name for cell in section for row in cell.rows for name in row.diagnostics)
    figures: dict[str, Callable[[Cell], str]] = {
        name.replace("_", " "): lambda cell, name=name: number_text(cell.diagnostic(name), ".3g")  # type: ignore[misc]
        for name in names
    }
    first = {name: text for name, text in _columns(section).items() if name in TEXT_COLUMNS}
    seeds = {"seeds": lambda cell: str(sum(bool(row.diagnostics) for row in cell.rows))}
    return {**first, **seeds, **figures}


def _columns(section: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """Text of each column of a cell by heading; parts of the identity that all cells share are left out."""
    columns: dict[str, Callable[[Cell], str]] = {
        "method": lambda cell: cell.rows[0].method,
        "variant": lambda cell: cell.rows[0].variant or "default",
    }
    for name, title in IDENTITY_COLUMNS.items():
        if len({getattr(cell.rows[0], name) for cell in section}) > 1:
            columns[title] = lambda cell, name=name: getattr(cell.rows[0], name)  # type: ignore[misc]
    shown = [tuple(text(cell) for text in columns.values()) for cell in section]
    if len(set(shown)) < len(shown):  # only the setting tells two cells apart
        columns["setting"] = lambda cell: cell.rows[0].setting
    columns["seeds"] = lambda cell: str(len(cell.rows))
    columns["accuracy"] = lambda cell: interval_text(cell.accuracy, 100)
    if any(row.samples > 1 for cell in section for row in cell.rows):
        columns["k"] = lambda cell: str(cell.rows[0].samples)
        for k in sorted({k for cell in section for row in cell.rows for k in row.pass_at} - {1}):
            columns[f"pass@{k}"] = lambda cell, k=k: interval_text(cell.pass_at(k), 100)  # type: ignore[misc]
        columns["maj@k"] = lambda cell: interval_text(cell.interval("maj_at_k"), 100)
    columns["#L"] = lambda cell: interval_text(cell.chain_length)
    if any(row.unknown_length for cell in section for row in cell.rows):  # of models without think tokens
        columns["#L unknown"] = lambda cell: _percent(cell.mean("unknown_length"))
    return {
        **columns,
        "compression": lambda cell: interval_text(cell.compression, digits=2),
        "answer tokens": lambda cell: number_text(cell.mean("answer_tokens"), ".1f"),
        "decode steps": lambda cell: number_text(cell.mean("decode_steps"), ".1f"),
        "no answer": lambda cell: _percent(cell.mean("no_answer")),
        "timeout": lambda cell: _percent(cell.mean("timeout")),
        "truncated": lambda cell: _percent(cell.mean("truncated")),
        "too long": lambda cell: _percent(cell.mean("prompt_too_long")),
        "answers/s": lambda cell: number_text(cell.mean("answers_per_second"), ".1f"),
        "passes": lambda cell: number_text(cell.mean("train_passes"), ".3g"),
        "train FLOPs": lambda cell: number_text(cell.mean("train_flops"), ".2e"),
    }


def _references(section: Sequence[Cell]) -> str:
    """Every reference of a section with its mean #L, which depends on the tokenizer."""
    found: dict[str, None] = {}
    for cell in section:
        row = cell.rows[0]
        if row.reference_length is not None:
            found[f"{row.reference} (mean #L {row.reference_length:.1f}, {row.backbone})"] = None
    return "; ".join(found) or "none"


def interval_text(interval: Interval | None, scale: float = 1, digits: int = 1) -> str:
    """`value [low, high]`; a dash for None."""
    if interval is None:
        return DASH
    value, low, high = (f"{scale * part:z.{digits}f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]".replace("inf", "∞")


def number_text(value: float | None, spec: str) -> str:
    """A number in a format such as .2f, what rounds to zero without a sign; a dash for None."""
    return DASH if value is None else format(value, "z" + spec)


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def _csv_field(value: object) -> object:
    if isinstance(value, Mapping):
        found = {name: one.value if isinstance(one, Interval) else one for name, one in value.items()}
        return json.dumps(found) if found else ""
    return f"{value:.6g}" if isinstance(value, float) else value


def plain(text: str) -> str:
    """One line that can be encoded."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def markdown_text(text: str) -> str:
    """Text that stays in its cell of a Markdown table and can be encoded."""
    return plain(text).replace("|", "\\|")
