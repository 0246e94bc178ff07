"""A submission is hostile until checked: every size and depth has a bound, every refusal names its file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import questions
from latbench.evaluation.records import (
    MANIFEST,
    MAX_BAD_LINES,
    MAX_LINE,
    RECORDS,
    parse_record,
    read_evaluation,
    read_records,
)
from latbench.measures.measure_files import COST, LATENTS, PARALLELISM, RELIANCE, read_measures
from latbench.report.leaderboard import leaderboard
from latbench.runs.run import Run
from latbench.submission import check, check_evaluation
from latbench.task import Example
from latbench.util.files import read_bounded

DEEP = 100_000


@pytest.fixture
def folder(run: Run) -> Path:
    """An evaluation that recomputes."""
    return evaluate(EvalJob.of(run, "synth", limit=3))


def change(folder: Path, **changes: Any) -> None:
    row = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**row, **changes}))


def config_with(folder: Path, section: str, **changes: Any) -> dict[str, Any]:
    config = json.loads((folder / MANIFEST).read_text())["config"]
    return {**config, section: {**config[section], **changes}}


def bomb(folder: Path) -> None:
    """150 kB that unpack to far more than they may."""
    (folder / (RECORDS + ".gz")).write_bytes(gzip.compress(b"\n" * 140_000_000))
    (folder / RECORDS).unlink()


def one_line(folder: Path) -> None:
    (folder / (RECORDS + ".gz")).write_bytes(gzip.compress(b"[" * 20_000_000))
    (folder / RECORDS).unlink()


def record_with(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        first, *others = (folder / RECORDS).read_text().splitlines()
        (folder / RECORDS).write_text("\n".join([json.dumps({**json.loads(first), **changes}), *others]) + "\n")

    return write


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "large": lambda folder: (folder / MANIFEST).write_text(" " * 2_000_000),
    "deep": lambda folder: (folder / MANIFEST).write_text("[" * DEEP + "]" * DEEP),
    "deep config": lambda folder: change(folder, config=json.loads('{"a":' * 400 + "1" + "}" * 400)),
    "no UTF-8": lambda folder: (folder / MANIFEST).write_bytes(b'"\xff"'),
    "long name": lambda folder: change(folder, variant="x" * 30_000),
    "cost beyond a float": lambda folder: change(folder, train={"flops": 10**400}),
    "cost that is none": lambda folder: change(folder, train={"flops": float("nan")}),
    "n beyond all": lambda folder: change(folder, n=10**30),
    "no file": lambda folder: ((folder / MANIFEST).unlink(), (folder / MANIFEST).mkdir()),
    "pipe": lambda folder: ((folder / MANIFEST).unlink(), os.mkfifo(folder / MANIFEST)),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_beyond_a_bound_is_refused_by_name(folder: Path, kind: str) -> None:
    MANIFESTS[kind](folder)
    (problem,) = check_evaluation(folder).problems
    assert str(folder) in problem
    assert len(problem) < 500


@pytest.mark.parametrize("write", [bomb, one_line])
def test_a_gzip_bomb_is_refused_by_name(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    assert (folder / (RECORDS + ".gz")).stat().st_size < 150_000
    (problem,) = check_evaluation(folder).problems
    assert str(folder / RECORDS) in problem


def test_unpacked_bytes_and_lines_have_bounds(tmp_path: Path) -> None:
    path = tmp_path / (RECORDS + ".gz")
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 900))
    assert read_records(path)[1] == 900
    with pytest.raises(ValueError, match=f"{path} is too large: it holds more than 1000 bytes"):
        read_records(path, 1000)
    path.write_bytes(gzip.compress(b"{}\n" * (MAX_BAD_LINES + 1)))
    with pytest.raises(ValueError, match=f"{path}: more than {MAX_BAD_LINES} lines are no records"):
        read_records(path)
    plain = tmp_path / RECORDS
    plain.write_bytes(b"x" * (MAX_LINE + 1))
    with pytest.raises(ValueError, match=f"{plain} is too large: a line is longer than {MAX_LINE} bytes"):
        read_records(plain)


@pytest.mark.parametrize(
    "changes", [{"id": "\ud800"}, {"num_latents": 10**30}, {"decode_steps": -1}], ids=["surrogate", "count", "negative"]
)
def test_a_record_that_no_page_could_hold_is_passed_over_and_its_folder_named(
    folder: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    record_with(**changes)(folder)
    (problem,) = check_evaluation(folder).problems
    assert problem == f"{folder}: 1 lines are no records; evaluate again"
    board = leaderboard([folder], ["md", "csv", "latex", "html"], tmp_path / "out")
    assert any(str(folder) in notice for notice in board.notices)
    assert all(text.encode() for text in board.text_by_format.values())


def test_a_deep_record_is_no_record() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_record("[" * DEEP)


def test_an_id_that_cannot_be_encoded_is_refused_where_it_comes_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = EvalJob.of(run, "synth", limit=1)
    odd = Example(id="\ud800", question="1?", steps=(), answer="1")
    monkeypatch.setattr(type(job.task), "load", lambda self, split: [odd])
    with pytest.raises(ValueError, match=r"synth/test: id '\\ud800' is no text that can be encoded"):
        questions(job.settings)


@pytest.mark.parametrize("name", [COST, LATENTS, PARALLELISM, RELIANCE])
@pytest.mark.parametrize("kind", ["large", "deep", "directory"])
def test_a_measure_beyond_a_bound_is_not_used_and_named(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    if kind == "large":
        with path.open("wb") as file:
            file.truncate(17_000_000)
    elif kind == "deep":
        path.write_text('{"header":' * DEEP)
    else:
        path.mkdir()
    _, notices = read_measures(read_evaluation(folder))
    (notice,) = notices
    assert str(path) in notice
    assert len(notice) < 500
    assert any(str(path) in problem for problem in check_evaluation(folder).problems)


def test_a_setting_of_many_characters_is_not_put_before_every_question(folder: Path) -> None:
    change(folder, config=config_with(folder, "model", instruction="x" * 20_000))
    (problem,) = check_evaluation(folder).problems
    assert "config.model.instruction has 20000 characters, more than 10000" in problem


@pytest.mark.parametrize("config", [{}, {"model": 3, "train": [], "generate": None, "eval": 7, "start": "x"}])
def test_a_configuration_of_any_shape_ends_in_a_sentence(folder: Path, config: dict[str, Any], tmp_path: Path) -> None:
    change(folder, config=config)
    assert all(str(folder) in problem for problem in check_evaluation(folder).problems)
    assert check_evaluation(folder).problems
    assert leaderboard([folder], ["md", "html"], tmp_path / "out").text_by_format["md"]


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.html"])
def test_a_table_that_is_no_text_is_refused_by_name(folder: Path, name: str) -> None:
    top = folder.parents[1]
    (top / name).write_bytes(b"\xff\xfe")
    assert f"{top / name} is not UTF-8; write it again" in check([top]).problems
    with (top / name).open("wb") as file:
        file.truncate(65_000_000)
    assert any(str(top / name) in problem and "65000000 bytes" in problem for problem in check([top]).problems)


def test_sentences_hold_nothing_that_acts_on_a_terminal(folder: Path) -> None:
    change(folder, layout="\x1b[2Jdefault", run="a\nrefused: nothing")
    for problem in check([folder.parents[1]]).problems:
        assert problem.isprintable()


def test_a_manifest_that_does_not_fit_names_no_other_folder(folder: Path, run: Run) -> None:
    """One damaged folder keeps to itself: the others are in the table."""
    other = evaluate(EvalJob.of(run, "synth", limit=2))
    (folder / MANIFEST).write_text("[" * DEEP)
    board = leaderboard([run.folder], ["md"])
    assert "2 questions" in board.text_by_format["md"]
    (notice,) = board.notices
    assert str(folder) in notice
    assert str(other) not in notice


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no regular file"):
        read_bounded(tmp_path / "pipe", 10)
    (tmp_path / "file").write_text("12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="has 5 bytes, more than the 4"):
        read_bounded(tmp_path / "file", 4)
