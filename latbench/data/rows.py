"""Rows of a local data file, and checked examples from rows of any origin.

A place is a clause that names where a row stands ("/data/x.jsonl, line 3") and opens the sentence of an error.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import gold_fault
from latbench.data.hub import Row, RowMapping
from latbench.task import Example

PlacedRow = tuple[str, Row]


def file_rows(path: Path, packed: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, raw row) for every row of a file; in JSON lines blank ones are skipped and only \\n ends a line."""
    content, name = packed, path.name.removesuffix(".gz")
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(packed)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged and cannot be unpacked ({error}); fetch it again") from error
    if name.endswith(".json"):
        rows = _parsed(content, str(path))
        if not isinstance(rows, list):
            raise ValueError(f"{path} is not a JSON list of rows")
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    if name.endswith(".csv"):
        yield from _csv_rows(path, content)
        return
    if name.endswith(".parquet"):
        yield from _parquet_rows(path, content)
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, {"text": _text(line, place)} if name.endswith(".txt") else _parsed(line, place)


def _csv_rows(path: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a CSV file with a header; a place is the line on which a row begins."""
    text = _text(content, str(path)).removeprefix("\ufeff")  # which spreadsheets write
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{place}: not valid CSV ({error})") from error
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if not header:
            header = fields
            if repeated := [name for name, count in Counter(header).items() if count > 1]:
                raise ValueError(f"{place}: the header has {repeated[0]!r} twice; give each column its name")
            continue
        if len(fields) != len(header):
            raise ValueError(
                f"{place}: {len(fields)} fields, but the header has {len(header)}; quote texts with commas"
            )
        yield place, dict(zip(header, fields, strict=True))


def _parquet_rows(path: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(io.BytesIO(content))
    except (ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{path}: not valid Parquet ({reason})") from error
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(table.to_pylist(), 1))


def _parsed(content: bytes, place: str) -> Any:
    text = _text(content, place)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ValueError(f"{place}: not valid JSON ({error})") from error


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not valid UTF-8 ({error.reason} at byte {error.start})") from error


def mapped(raw: Iterable[tuple[str, Mapping[str, Any]]], mapping: RowMapping | None) -> tuple[list[PlacedRow], int]:
    """(place, row) for every row that the mapping keeps, and the number of rows read."""
    rows, num_read = [], 0
    for index, (place, value) in enumerate(raw):
        num_read += 1
        if not isinstance(value, Mapping):
            raise ValueError(f"{place}: not a JSON object but {type(value).__name__}")
        try:
            row = mapping(value, index) if mapping else dict(value)
        except KeyError as error:
            raise ValueError(f"{place}: field {error} is missing") from error
        except (AttributeError, TypeError, ValueError) as error:  # a field of another type, a text of another form
            raise ValueError(f"{place}: {error}") from error
        if row is not None:
            rows.append((place, row))
    return rows, num_read


def examples_of(rows: Iterable[PlacedRow], kind: AnswerKind | None) -> list[Example]:
    """Checked examples with ids that occur once; `kind` None leaves the kind of the answer unchecked."""
    examples, places = [], dict[str, str]()
    for place, row in rows:
        fault = _fault(row, kind)
        if fault:
            raise ValueError(f"{place}: {fault}")
        if row["id"] in places:
            raise ValueError(f"{place}: field 'id' repeats {row['id']!r} of {places[row['id']]}")
        places[row["id"]] = place
        meta = {key: value for key, value in row.items() if key not in ("id", "question", "steps", "answer")}
        steps = tuple(row.get("steps", ()))
        examples.append(Example(id=row["id"], question=row["question"], steps=steps, answer=row["answer"], meta=meta))
    return examples


def _fault(row: Row, kind: AnswerKind | None) -> str | None:
    """What is wrong with a row, as a clause, or None."""
    for field in ("id", "question", "answer"):
        value = row.get(field)
        if not isinstance(value, str) or not value.strip():
            state = "missing" if value is None else "empty" if isinstance(value, str) else "not text"
            return f"field {field!r} is {state}; every row needs an id, a question and an answer"
    steps = row.get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, str) and step.strip() for step in steps):
        return "field 'steps' is not a list of non-empty texts"
    reason = gold_fault(row["answer"], kind) if kind else None
    return f"field 'answer' {reason}" if reason else None


def rows_hash(rows: Iterable[PlacedRow]) -> str:
    """sha256 of the rows as canonical JSON lines."""
    digest = hashlib.sha256()
    for _, row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()
