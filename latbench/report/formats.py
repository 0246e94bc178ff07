"""Rows as CSV and cells as Markdown: the same text wherever and whenever it is made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from latbench.report.statistics import Interval
from latbench.report.tables import Cell, Row, cells, sections

DASH = "–"
IDENTITY_COLUMNS = {"backbone": "backbone", "layout": "layout", "train_data": "training data"}
LEGEND = """\
- Accuracy (%) is pass@1; it, pass@k and maj@k have a 95 % interval: Wilson's for a single run, Student's t over seeds
  for several.
- #L is the chain length: latent steps plus explicit reasoning tokens, without markers, answer and EOS. Its 95 %
  interval is Student's t, over questions for a single run, over seeds for several.
- Compression is the mean #L of the reference named with each table / mean #L, with the interval of #L, the reference
  taken as exact; a dash stands where #L is 0 or there is no reference.
- Answer tokens and decode steps are means per answer.
- No answer, timeout (of the checker), truncated (at a cap) and too long (prompt beyond the context: counted as wrong,
  left out of lengths) are % of answers.
- Passes (over the training examples) and training FLOPs include those of the run that a run starts from."""
TEXT_COLUMNS = ("method", "variant", "setting", *IDENTITY_COLUMNS.values())


def to_csv(rows: Sequence[Row]) -> str:
    """One line per run; numbers with six significant digits."""
    names = [f.name for f in fields(Row)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_field(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """One table per task, split and test set, one line per cell, and what its numbers mean."""
    parts = ["# Leaderboard", LEGEND]
    parts += [_section(section) for section in sections(cells(rows))] or ["No complete evaluation."]
    return "\n\n".join(parts) + "\n"


def _section(section: Sequence[Cell]) -> str:
    task, split, n, test_set = section[0].section
    columns = _columns(section)
    tables = [_table(section, columns)]
    reporting = [cell for cell in section if any(row.diagnostics for row in cell.rows)]
    if reporting:
        tables += ["What training reported (means over seeds):", _table(reporting, _diagnostics(reporting))]
    common = "".join(
        f" {title.capitalize()}: {_escape(getattr(section[0].rows[0], name))}."
        for name, title in IDENTITY_COLUMNS.items()
        if title not in columns
    )
    facts = f"{n} questions (test set {test_set}). Reference for compression: {_references(section)}.{common}"
    return "\n\n".join([f"## {_escape(task)} / {_escape(split)}", facts, *tables])


def _table(section: Sequence[Cell], columns: Mapping[str, Callable[[Cell], str]]) -> str:
    from tabulate import tabulate

    return tabulate(
        [[_escape(text(cell)) for text in columns.values()] for cell in section],
        headers=[_escape(name) for name in columns],
        tablefmt="github",
        disable_numparse=True,
        colalign=["left" if name in TEXT_COLUMNS else "right" for name in columns],
    )


def _diagnostics(section: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """Method, variant, and every figure that some cell's method reported."""
    names = dict.fromkeys(name for cell in section for row in cell.rows for name in row.diagnostics)
    figures: dict[str, Callable[[Cell], str]] = {
        name.replace("_", " "): lambda cell, name=name: _number(cell.diagnostic(name), ".3g")  # type: ignore[misc]
        for name in names
    }
    first = {name: text for name, text in _columns(section).items() if name in TEXT_COLUMNS}
    return {**first, **figures}


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
    columns["accuracy"] = lambda cell: _interval(cell.accuracy, 100)
    if any(row.samples > 1 for cell in section for row in cell.rows):
        columns["k"] = lambda cell: str(cell.rows[0].samples)
        columns["pass@k"] = lambda cell: _interval(cell.interval("pass_at_k"), 100)
        columns["maj@k"] = lambda cell: _interval(cell.interval("maj_at_k"), 100)
    return {
        **columns,
        "#L": lambda cell: _interval(cell.chain_length),
        "compression": lambda cell: _interval(cell.compression, digits=2),
        "answer tokens": lambda cell: _number(cell.mean("answer_tokens"), ".1f"),
        "decode steps": lambda cell: _number(cell.mean("decode_steps"), ".1f"),
        "no answer": lambda cell: _percent(cell.mean("no_answer")),
        "timeout": lambda cell: _percent(cell.mean("timeout")),
        "truncated": lambda cell: _percent(cell.mean("truncated")),
        "too long": lambda cell: _percent(cell.mean("prompt_too_long")),
        "answers/s": lambda cell: _number(cell.mean("answers_per_second"), ".1f"),
        "passes": lambda cell: _number(cell.mean("train_passes"), ".3g"),
        "train FLOPs": lambda cell: _number(cell.mean("train_flops"), ".2e"),
    }


def _references(section: Sequence[Cell]) -> str:
    """Every reference of a section with its mean #L, which depends on the tokenizer."""
    found: dict[str, None] = {}
    for cell in section:
        row = cell.rows[0]
        if row.reference_length is not None:
            found[f"{row.reference} (mean #L {row.reference_length:.1f}, {row.backbone})"] = None
    return _escape("; ".join(found)) or "none"


def _interval(interval: Interval | None, scale: float = 1, digits: int = 1) -> str:
    if interval is None:
        return DASH
    value, low, high = (f"{scale * part:.{digits}f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]".replace("inf", "∞")


def _number(value: float | None, spec: str) -> str:
    return DASH if value is None else format(value, spec)


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def _csv_field(value: object) -> object:
    if isinstance(value, Mapping):
        return json.dumps(value) if value else ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _escape(text: str) -> str:
    """Text that stays in its cell of a Markdown table and can be encoded."""
    plain = " ".join(text.encode(errors="backslashreplace").decode().split())
    return plain.replace("|", "\\|")
