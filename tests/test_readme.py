"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latbench.cli import app
from latbench.report.chart import description
from latbench.report.leaderboard import leaderboard

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("latbench ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_of_the_readme_and_their_options_exist(words: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [words[1], "--help"])
    assert shown.exit_code == 0
    for word in words[2:]:
        if word.startswith("--"):
            assert word in shown.output


def test_the_readme_has_its_two_commands_and_make_knows_them() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.findall(r"^make (\S+)", README, re.MULTILINE) == ["quickstart", "test"]


@pytest.mark.slow  # trains
def test_the_python_block_runs_as_it_stands(tmp_path: Path) -> None:
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Interval(value=" in done.stdout
    assert "chain_length" in done.stdout


def test_links_and_paths_of_the_readme_exist() -> None:
    for path in re.findall(r"`((?:latbench|tasks|benchmarks|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).exists(), picture


def test_the_committed_picture_follows_from_the_committed_records() -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngImageFile

    path = "results/accuracy_vs_length.png"
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    command = re.search(rf"latbench leaderboard results --only '([^']+)' --plot {path}", text)
    assert command is not None
    board = leaderboard([ROOT / "results"], (), only=command[1])
    picture = Image.open(ROOT / path)
    assert isinstance(picture, PngImageFile)
    assert picture.text["Description"] == description(board.cells)


def test_the_committed_tables_follow_from_the_committed_records() -> None:
    board = leaderboard([ROOT / "results"], ("md", "csv"))
    for name, text in board.text_by_format.items():
        assert (ROOT / "results" / f"leaderboard.{name}").read_text(encoding="utf-8") == text
    assert board.notices == ()
