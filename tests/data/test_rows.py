"""Rows of data files: formats, places in errors, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from latbench.data import Source, read_split

GOOD = {"id": "a", "question": "1+1?", "steps": ["<<1+1=2>>"], "answer": "2"}


def write(folder: Path, name: str, *lines: Any) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    return tmp_path


def error_of(source: Source, kind: Any = "number") -> str:
    with pytest.raises(ValueError, match=r"toy\.json") as caught:
        read_split(source, kind, "task 'toy', split 'test'")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({**GOOD, "id": "b", "answer": ""}, "line 2: field 'answer' is empty"),
        ({**GOOD, "id": "b", "answer": "  "}, "line 2: field 'answer' is empty"),
        ({**GOOD, "id": "b", "answer": 2}, "line 2: field 'answer' is not text"),
        ({**GOOD, "id": "b", "answer": None}, "line 2: field 'answer' is missing"),
        ({**GOOD, "id": "b", "answer": "two"}, "line 2: field 'answer' is no answer of kind 'number': 'two'"),
        ({"id": "b", "answer": "2"}, "line 2: field 'question' is missing"),
        ({"question": "1+1?", "answer": "2"}, "line 2: field 'id' is missing"),
        ({**GOOD, "id": "b", "steps": "<<1+1=2>>"}, "line 2: field 'steps' is not a list"),
        ({**GOOD, "id": "b", "steps": [""]}, "line 2: field 'steps' is not a list of non-empty texts"),
        (GOOD, "line 2: field 'id' repeats 'a' of"),
        ('{"id": "b", "question": ', "line 2: not valid JSON"),
        ("[1, 2]", "line 2: not a JSON object but list"),
        ('{"id": "b", "answer": ' + "9" * 5000 + "}", "line 2: not valid JSON"),
    ],
)
def test_a_malformed_row_is_refused_with_file_line_and_field(folder: Path, line: Any, expected: str) -> None:
    path = write(folder, "toy.jsonl", GOOD, line)
    message = error_of(Source(file="toy.jsonl"))
    assert message.startswith(str(path))
    assert expected in message


def test_bytes_that_are_not_utf8_are_refused_with_their_line(folder: Path) -> None:
    (folder / "toy.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}\n')
    assert "toy.jsonl, line 2: not valid UTF-8" in error_of(Source(file="toy.jsonl"))


def test_a_damaged_archive_is_refused(folder: Path) -> None:
    path = write(folder, "toy.jsonl.gz", GOOD, {**GOOD, "id": "b"})
    path.write_bytes(path.read_bytes()[:-12])
    assert f"{path} is damaged and cannot be unpacked" in error_of(Source(file="toy.jsonl.gz"))


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, "toy.jsonl", GOOD)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # a test run by root may read everything
    assert error_of(Source(file="toy.jsonl")) == f"{path} cannot be read (Permission denied); check its permissions"


def test_another_number_of_rows_than_published_is_refused_with_both_numbers(folder: Path) -> None:
    path = write(folder, "toy.jsonl", GOOD)
    message = error_of(Source(file="toy.jsonl", num_rows=2))
    assert message == f"{path} holds 1 rows, but task 'toy', split 'test' has 2; fetch it again"


def test_only_newline_ends_a_line_and_blank_lines_count_but_hold_no_row(folder: Path) -> None:
    odd = {**GOOD, "question": "one\u2028two\x85three\x0bfour"}
    (folder / "toy.jsonl").write_text(
        json.dumps(odd, ensure_ascii=False) + "\n\n" + json.dumps({**GOOD, "id": "b", "answer": ""}) + "\n",
        encoding="utf-8",
    )
    assert "line 3: field 'answer' is empty" in error_of(Source(file="toy.jsonl"))
    write(folder, "fine.jsonl", json.dumps(odd, ensure_ascii=False))
    [example] = read_split(Source(file="fine.jsonl"), "number", "toy").examples
    assert example.question == odd["question"]


def test_packed_and_unpacked_files_are_both_found_and_give_the_same_examples(folder: Path) -> None:
    write(folder, "one.jsonl", GOOD)
    write(folder, "two.jsonl.gz", GOOD)
    one = read_split(Source(file="one.jsonl.gz"), "number", "toy")
    two = read_split(Source(file="two.jsonl"), "number", "toy")
    assert one.examples == two.examples
    assert one.fingerprint.sha256 != two.fingerprint.sha256  # of the bytes as read


def test_a_json_list_is_read_with_row_numbers(folder: Path) -> None:
    (folder / "toy.json").write_text(json.dumps([GOOD, {**GOOD, "id": "b", "answer": ""}]))
    assert "toy.json, row 2: field 'answer' is empty" in error_of(Source(file="toy.json"))
    (folder / "toy.json").write_text(json.dumps({"rows": []}))
    assert "is not a JSON list of rows" in error_of(Source(file="toy.json"))


def test_a_field_that_a_mapping_misses_or_finds_in_another_type_is_named_with_its_place(folder: Path) -> None:
    write(folder, "toy.jsonl", {"q": "1+1?", "a": None})

    def row(value: Any, index: int) -> dict[str, Any]:
        return {"id": str(index), "question": value["q"], "steps": [], "answer": value["a"].strip()}

    assert "toy.jsonl, line 1: 'NoneType' object has no attribute 'strip'" in error_of(
        Source(file="toy.jsonl", row=row)
    )
    write(folder, "toy.jsonl", {"q": "1+1?"})
    assert error_of(Source(file="toy.jsonl", row=row)).endswith("toy.jsonl, line 1: field 'a' is missing")


def test_further_fields_go_to_meta(folder: Path) -> None:
    write(folder, "toy.jsonl", {**GOOD, "level": 3, "subject": None})
    [example] = read_split(Source(file="toy.jsonl"), "number", "toy").examples
    assert example.meta == {"level": 3, "subject": None}
    assert example.steps == ("<<1+1=2>>",)
