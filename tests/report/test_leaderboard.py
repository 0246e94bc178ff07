"""From folders to tables and notices."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.records import MANIFEST, RECORDS
from latbench.report.leaderboard import find_evaluations, leaderboard


def test_no_module_of_the_report_imports_torch_or_a_plotting_library() -> None:
    modules = ["leaderboard", "picture", "cells", "task_sections", "csv", "table", "columns", "page", "latex"]
    code = f"import sys, {', '.join('latbench.report.' + name for name in modules)}\n"
    heavy = "('torch', 'transformers', 'pandas', 'matplotlib', 'scipy', 'numpy', 'tabulate')"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_making_a_leaderboard_and_a_plot_imports_no_torch(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a"), record("b")])
    code = (
        "import sys\nfrom pathlib import Path\nfrom latbench.report import leaderboard, picture\n"
        f"result = leaderboard.leaderboard([Path({str(tmp_path)!r})], ['md', 'csv', 'latex', 'html'])\n"
        f"picture.plot(result.cells, Path({str(tmp_path / 'p.png')!r}))\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_finds_evaluations_at_any_depth_once_plain_or_gzipped(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")], run="x/deep/one")
    make([record("a")], run="two", seed=1, gzipped=True)
    make([record("a")], run=".hidden")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / MANIFEST).write_text("{}")
    found = list(find_evaluations([tmp_path, tmp_path / "x", tmp_path / "two"]))
    assert found == [tmp_path / "two", tmp_path / "x/deep/one"]
    (cell,) = leaderboard([tmp_path]).cells
    assert len(cell.rows) == 2


def test_writes_each_format_and_the_same_bytes_again(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a"), record("b", False)])
    out = tmp_path / "new" / "out"
    first = leaderboard([tmp_path], ["md", "csv"], out)
    assert first.paths == (out / "leaderboard.md", out / "leaderboard.csv")
    written = [path.read_text(encoding="utf-8") for path in first.paths]
    assert written == [first.text_by_format["md"], first.text_by_format["csv"]]
    leaderboard([tmp_path], ["md", "csv"], out)
    assert [path.read_text(encoding="utf-8") for path in first.paths] == written
    assert sorted(path.name for path in out.iterdir()) == ["leaderboard.csv", "leaderboard.md"]


def test_what_cannot_be_counted_is_left_out_and_named(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a"), record("b")], run="good")
    make([record("a")], run="half", n=2)
    make([record("a"), record("a")], run="twice")
    make([record("a")], run="foreign")
    (tmp_path / "foreign" / MANIFEST).write_text("[]")
    damaged = make([record("a"), record("b")], run="damaged", seed=1)
    with (damaged.folder / RECORDS).open("ab") as file:
        file.write(b'{"id": "c", "tex')
    result = leaderboard([tmp_path])
    assert [row.manifest.run for cell in result.cells for row in cell.rows] == ["good", "damaged"]
    for run, reason in {
        "half": "left out: .*half: incomplete, 1 of 2 records",
        "twice": "left out: .*twice: 1 answers are recorded more than once",
        "foreign": "left out: .*foreign/manifest.json is not a latbench manifest",
        "damaged": "damaged: 1 unreadable lines",
    }.items():
        (notice,) = [notice for notice in result.notices if run in notice]
        with pytest.raises(ValueError, match=reason):
            raise ValueError(notice)


def test_a_cut_record_is_counted_and_the_other_questions_used_apart(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a"), record("b")], run="whole")
    answers = [record(name, sample=sample) for name in "abc" for sample in (0, 1)]
    cut = make(answers, run="cut", seed=1)
    path = cut.folder / RECORDS
    path.write_bytes(path.read_bytes()[:-10])
    result = leaderboard([tmp_path])
    shown = {
        row.manifest.run: (row.summary.n, row.summary.samples, row.summary.accuracy.value)
        for cell in result.cells
        for row in cell.rows
    }
    assert shown == {"whole": (2, 1, 1), "cut": (2, 2, 1)}, "a question with half its answers is left out"
    (notice,) = result.notices
    assert notice.endswith("cut: 1 unreadable lines were passed over; what is left, 4 records, has a table of its own")
    (unfinished,) = leaderboard([make(answers[:1], run="killed", n=3).folder]).notices
    assert "incomplete, 1 of 3 records; resume" in unfinished


def test_what_is_left_of_different_questions_is_not_averaged(make: Any, record: Any, tmp_path: Path) -> None:
    for seed, lost in enumerate((1, 2)):
        path = make([record(name, name != "a") for name in "abcd"], run=f"cut{seed}", seed=seed).folder / RECORDS
        lines = path.read_bytes().splitlines(keepends=True)
        lines[lost] = lines[lost][:20] + b"\n"
        path.write_bytes(b"".join(lines))
    assert [len(cell.rows) for cell in leaderboard([tmp_path]).cells] == [1, 1]


def test_a_damaged_copy_does_not_take_the_place_of_the_whole_run(make: Any, record: Any, tmp_path: Path) -> None:
    damaged, whole = (make([record("a"), record("b", False)], run=run) for run in ("a_damaged", "b_whole"))
    path = damaged.folder / RECORDS
    path.write_bytes(path.read_bytes()[:-10])
    result = leaderboard([tmp_path])
    assert {row.manifest.run: row.summary.n for cell in result.cells for row in cell.rows} == {
        "a_damaged": 1,
        whole.manifest.run: 2,
    }
    assert len(result.notices) == 1, "the lost line alone"


def test_only_shows_the_rows_that_an_expression_fits(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")], run="one", method="cot", variant="")
    make([record("a")], run="two", method="cot", variant="train.epochs=5", setting="s2")
    make([record("a")], run="three", method="codi", variant="", setting="s3")
    board = leaderboard([tmp_path], ["csv", "html"], only=r"^synth (cot|codi)$")
    assert {row.manifest.run for cell in board.cells for row in cell.rows} == {"one", "three"}
    assert not any("train.epochs" in text or '"two"' in text for text in board.text_by_format.values())
    for wrong, sentence in (
        ("(", r"'\(' is no regular expression: missing \)"),
        ("gsm8k", "'gsm8k' fits none of 3 rows"),
    ):
        with pytest.raises(ValueError, match=sentence):
            leaderboard([tmp_path], only=wrong)
    with pytest.raises(ValueError, match="no regular expression"):  # refused before a folder is looked at
        leaderboard([tmp_path / "absent"], only="[")


def test_a_copy_of_a_run_is_not_another_seed(make: Any, record: Any, tmp_path: Path) -> None:
    run = make([record("a"), record("b", False)])
    shutil.copytree(run.folder, tmp_path / "z_copy")
    result = leaderboard([tmp_path])
    (cell,) = result.cells
    assert len(cell.rows) == 1
    assert result.notices == (f"left out: {tmp_path / 'z_copy'}: it has the setting and the seed of {run.folder}",)


def test_tables_of_nothing_complete_say_so(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")], n=2)
    result = leaderboard([tmp_path])
    assert "No complete evaluation." in result.text_by_format["md"]
    assert len(result.notices) == 1


def test_wrong_requests_are_refused_in_one_sentence(make: Any, record: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no evaluation found under .*empty"):
        leaderboard([tmp_path / "empty"])
    with pytest.raises(ValueError, match=r"nowhere' does not exist"):
        leaderboard([tmp_path / "nowhere"])
    make([record("a")])
    with pytest.raises(ValueError, match=r"unknown format 'htm'; did you mean 'html'.*: csv, html, latex, md"):
        leaderboard([tmp_path], ["htm"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to --out"):
        leaderboard([tmp_path], ["md"], tmp_path / "file")
