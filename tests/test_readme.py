"""What the README shows works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from latbench import registry
from latbench.cli import app
from latbench.config import GenerateConfig, ModelConfig
from latbench.model.backbone import Backbone
from latbench.report.leaderboard import leaderboard
from latbench.report.plot import description
from latbench.task import Example

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
IMPORTS = """from __future__ import annotations
from typing import Annotated, Any
from pydantic import Field
from pydantic.dataclasses import dataclass
from latbench.decoding.loop import unroll
from latbench.decoding.rule import FixedLatents
from latbench.decoding.sampling import Sampling
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.registry import register_method
from latbench.task import STRICT
from latbench.training.losses import token_cross_entropy
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def as_module(name: str, source: str, folder: Path) -> ModuleType:
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_method_of_the_readme_learns_and_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._entries, "method", {})  # the example is registered for this test alone
    source = next(block for block in blocks("python") if "@register_method" in block)
    module = as_module("readme_method", IMPORTS + source.split('"""', 2)[2], tmp_path)
    method = module.Six(Backbone.load(ModelConfig(hidden_size=32, num_layers=2, mlp_size=48)), module.SixConfig())
    examples = [Example(id=str(i), question=f"n{i}?", steps=("<<1+1=2>>",), answer=str(i)) for i in range(4)]
    (stage,) = method.stages()
    batch = method.batch(examples, stage)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        terms = method(batch, stage)
        assert terms["ce"].num_items == batch.num_items["ce"]
        optimizer.zero_grad()
        terms.objective().backward()
        optimizer.step()
        losses.append(float(terms.objective()))
    assert losses[-1] < 0.1 * losses[0]
    answers = method.generate([example.question for example in examples], GenerateConfig(max_new_tokens=4))
    assert [answer.text for answer in answers] == [example.answer for example in examples]
    assert all((answer.num_latents, answer.num_reasoning_tokens) == (6, 0) for answer in answers)


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


def test_links_and_paths_of_the_readme_exist() -> None:
    for path in re.findall(r"`((?:latbench|tasks|benchmarks|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).exists(), picture


def test_the_committed_picture_follows_from_the_committed_records() -> None:
    from PIL import Image

    path = "results/accuracy_vs_length.png"
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    command = re.search(rf"latbench leaderboard results --only '([^']+)' --plot {path}", text)
    assert command is not None
    board = leaderboard([ROOT / "results"], (), only=command[1])
    assert Image.open(ROOT / path).text["Description"] == description(board.cells)


def test_the_committed_tables_follow_from_the_committed_records() -> None:
    board = leaderboard([ROOT / "results"], ("md", "csv"))
    for name, text in board.text_by_format.items():
        assert (ROOT / "results" / f"leaderboard.{name}").read_text(encoding="utf-8") == text
    assert board.notices == ()
    for cell in board.cells:  # the README shows all methods, and some of their variants
        label, shown = cell.label, cell.accuracy
        numbers = f"{100 * shown.value:.1f} [{100 * shown.low:.1f}, {100 * shown.high:.1f}]"
        line = re.search(rf"^\| {re.escape(label)} +\| (.*)$", README, re.MULTILINE)
        assert line or cell.identity.variant, f"{label} is missing"
        assert not line or re.match(rf"{len(cell.rows)} +\| {re.escape(numbers)} ", line[1]), label
