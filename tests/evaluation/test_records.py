"""Records and manifests: byte-stable, and readable however they were damaged."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latbench.evaluation.records import (
    MANIFEST,
    RECORDS,
    SCHEMA_VERSION,
    Manifest,
    Record,
    append_records,
    parse_record,
    read_evaluation,
    read_manifest,
    read_records,
    record_line,
    write_manifest,
)
from latbench.task import Fingerprint

RECORD = Record(
    id="q1",
    sample=0,
    text="The answer is 12.",
    reasoning="<<3*4=12>>",
    extracted="12",
    gold="12",
    status="correct",
    num_latents=2,
    num_reasoning_tokens=5,
    num_answer_tokens=4,
    gold_chain_length=6,
    num_prompt_tokens=20,
    decode_steps=13,
    stop_reason="eos",
    seed=0,
    chunk=0,
)
MANIFEST_ROW = Manifest(
    task="synth",
    split="test",
    method="cot",
    variant="",
    setting="abc123",
    backbone="tiny",
    layout="default",
    train_data="synth/train",
    run="cot-0",
    seed=0,
    n=2,
    complete=True,
    command="latbench eval",
    config={"train": {"lr": 1e-4}},
    questions_sha256="11",
    data={"synth/test": Fingerprint(source="synth", sha256="00", num_examples=2)},
    versions={"torch": "2.13.0"},
    git_commit=None,
    git_dirty=None,
    hardware={"cores": 2},
    train={"flops": 10, "seconds": 1.5},
)


def lines(*records: Record) -> bytes:
    return "".join(record_line(record) + "\n" for record in records).encode()


@settings(deadline=None, derandomize=True)
@given(
    text=st.text(st.characters(exclude_categories=())),
    extracted=st.none() | st.text(st.characters(exclude_categories=())),
    seed=st.integers(),
)
def test_a_line_is_encodable_has_no_line_end_inside_and_is_stable(text: str, extracted: str | None, seed: int) -> None:
    record = replace(RECORD, text=text, extracted=extracted, seed=seed)
    line = record_line(record)
    assert len(line.encode().decode().splitlines()) == 1
    read = parse_record(line)
    assert parse_record(record_line(read)) == read
    if "\\ud" not in line:  # two surrogates side by side are one character to any JSON reader
        assert read == record
        assert record_line(read) == line


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c\u0085d", "\ud800 alone", "\\u2028 spelt out", "\x00\n\r\t\x1c", "数学 🙂"]
)
def test_difficult_text_survives_the_file(tmp_path: Path, text: str) -> None:
    record = replace(RECORD, text=text)
    append_records(tmp_path / RECORDS, [record, RECORD])
    assert read_records(tmp_path / RECORDS) == ([record, RECORD], 0)


def test_characters_beyond_ascii_stay_readable() -> None:
    assert "数学" in record_line(replace(RECORD, text="数学"))


def test_appending_in_pieces_gives_the_bytes_of_one_append(tmp_path: Path) -> None:
    records = [replace(RECORD, id=str(i)) for i in range(5)]
    append_records(tmp_path / "once", records)
    append_records(tmp_path / "twice", records[:2])
    append_records(tmp_path / "twice", records[2:])
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes() == lines(*records)


def test_key_order_is_the_order_of_the_schema() -> None:
    assert list(json.loads(record_line(RECORD)))[:4] == ["id", "sample", "text", "reasoning"]


def test_chain_length_is_latents_plus_reasoning_tokens() -> None:
    assert RECORD.chain_length == 7


def test_an_unknown_chain_is_null_and_not_zero() -> None:
    unknown = replace(RECORD, num_reasoning_tokens=None)
    assert unknown.chain_length is None
    assert json.loads(record_line(unknown))["num_reasoning_tokens"] is None
    assert parse_record(record_line(unknown)) == unknown
    with pytest.raises(ValueError, match="a count is negative"):
        parse_record(record_line(replace(RECORD, num_reasoning_tokens=-1)))
    with pytest.raises(ValueError, match="num_latents is of the wrong kind"):
        parse_record(record_line(RECORD).replace(f'"num_latents": {RECORD.num_latents}', '"num_latents": null'))


@pytest.mark.parametrize("num_cut", [1, 2, 40, 150])
def test_a_file_cut_anywhere_in_its_last_line_loses_that_line_alone(tmp_path: Path, num_cut: int) -> None:
    data = lines(RECORD, replace(RECORD, id="q2", text="é"))
    (tmp_path / RECORDS).write_bytes(data[:-num_cut])
    records, num_bad = read_records(tmp_path / RECORDS)
    whole = num_cut == 1  # only the newline is gone
    assert (len(records), num_bad) == ((2, 0) if whole else (1, 1))


ROW = json.loads(record_line(RECORD))
FOREIGN = {
    "not utf-8": b"\xff\xfe\x00",
    "utf-8 cut inside a character": b'{"id": "\xc3',
    "null bytes": b"\x00" * 50,
    "blank": b"",
    "text": b"hello",
    "array": b"[1, 2]",
    "nested": b"[" * 100_000,
    "number of a million digits": b"1" * 1_000_000,
    "foreign object": b'{"id": "q1", "text": "x"}',
    "missing field": json.dumps({k: v for k, v in ROW.items() if k != "gold"}).encode(),
    "unknown field": json.dumps({**ROW, "time": 1.0}).encode(),
    "text where a number belongs": json.dumps({**ROW, "sample": "0"}).encode(),
    "true where a number belongs": json.dumps({**ROW, "sample": True}).encode(),
    "not a number": json.dumps({**ROW, "decode_steps": float("nan")}).encode(),
    "null id": json.dumps({**ROW, "id": None}).encode(),
    "unknown status": json.dumps({**ROW, "status": "right"}).encode(),
    "unknown stop reason": json.dumps({**ROW, "stop_reason": "tired"}).encode(),
    "list as status": json.dumps({**ROW, "status": []}).encode(),
    "negative count": json.dumps({**ROW, "num_latents": -1}).encode(),
}


@pytest.mark.parametrize("line", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_unreadable_line_is_counted_and_the_rest_used(tmp_path: Path, line: bytes, suffix: str) -> None:
    data = lines(RECORD) + line + b"\n" + lines(replace(RECORD, id="q2"))
    path = tmp_path / (RECORDS + suffix)
    path.write_bytes(gzip.compress(data) if suffix else data)
    records, num_bad = read_records(path)
    assert ([record.id for record in records], num_bad) == (["q1", "q2"], 1)


def test_a_damaged_gzip_counts_once_and_gives_what_came_before(tmp_path: Path) -> None:
    many = [replace(RECORD, id=str(i), text=str(hash(i) ** 5)) for i in range(2000)]
    data = gzip.compress(lines(*many))
    path = tmp_path / (RECORDS + ".gz")
    path.write_bytes(data[: len(data) // 2])
    records, num_bad = read_records(path)
    assert 0 < len(records) < 2000
    assert records == many[: len(records)]
    assert num_bad == 1
    path.write_bytes(b"not gzip at all")
    assert read_records(path) == ([], 1)


@pytest.mark.parametrize("gzipped", [False, True])
def test_an_evaluation_is_read_back_as_written(tmp_path: Path, gzipped: bool) -> None:
    records = [RECORD, replace(RECORD, id="q2", status="no_answer", extracted=None)]
    write_manifest(tmp_path, MANIFEST_ROW)
    append_records(tmp_path / RECORDS, records)
    if gzipped:
        (tmp_path / (RECORDS + ".gz")).write_bytes(gzip.compress((tmp_path / RECORDS).read_bytes()))
        (tmp_path / RECORDS).unlink()
    evaluation = read_evaluation(tmp_path)
    assert evaluation.manifest == MANIFEST_ROW
    assert evaluation.records == records
    assert evaluation.num_bad_lines == 0


def test_a_command_line_that_is_not_utf8_can_stand_in_a_manifest(tmp_path: Path) -> None:
    manifest = replace(MANIFEST_ROW, command="latbench eval --run caf\udce9")  # as sys.argv shows a Latin-1 file name
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def manifest_text(**changes: Any) -> str:
    row = {
        name: getattr(MANIFEST_ROW, name) for name in Manifest.__dataclass_fields__ if name not in ("data", "created")
    }
    data = {"synth/test": {"source": "synth", "sha256": "00", "num_examples": 2}}
    return json.dumps({**row, "data": data, **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("[]", "fields differ"),
        ('{"name": "another tool"}', "fields differ"),
        (manifest_text(extra=1), "fields differ"),
        (manifest_text(n="2"), "n is of the wrong kind"),
        (manifest_text(data={"synth/test": 3}), "fields differ from those of a fingerprint"),
        (manifest_text(evaluation={"seconds": "long"}), "seconds is not a number"),
        (manifest_text(diagnostics={"loss": None}), "loss is not a number"),
        (manifest_text(schema_version=SCHEMA_VERSION + 1, extra=1), "update latbench"),
    ],
)
def test_a_foreign_manifest_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert MANIFEST in str(caught.value)


def test_manifest_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a latbench manifest"):
        read_manifest(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        read_evaluation(tmp_path)
    write_manifest(tmp_path, MANIFEST_ROW)
    with pytest.raises(ValueError, match=r"no records\.jsonl"):
        read_evaluation(tmp_path)


def test_fields_with_defaults_may_be_missing_from_a_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest_text())
    assert read_manifest(tmp_path) == MANIFEST_ROW
