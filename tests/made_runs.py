"""Fixtures: one small trained run, shared; tests that write copy it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from latbench.config import RunConfig, parse
from latbench.runs.run import Run, load_run
from latbench.runs.train import train
from tests.measured_runs import copies

SMALL = (
    "train.max_steps=2",
    "train.batch_size=4",
    "task.num_train=40",
    "task.num_test=20",
    "generate.chunk=8",
    "generate.max_new_tokens=12",
    "model.hidden_size=16",
    "model.num_heads=2",
    "model.num_layers=1",
    "model.mlp_size=16",
)


@pytest.fixture(scope="session")
def small() -> RunConfig:
    """A configuration that trains in a fraction of a second; its 20 test questions are three chunks of 8, 8 and 4."""
    return parse({"method": "cot"}, overrides=SMALL)


@pytest.fixture(scope="session")
def trained(small: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run; not to be written to."""
    return train(small, runs_dir=tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, alone in a folder of runs."""
    folder = tmp_path / "runs" / trained.folder.name
    shutil.copytree(trained.folder, folder)
    return load_run(folder)


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Copies of the runs of `measured_runs`, by method."""
    return copies(tmp_path_factory, tmp_path)


@pytest.fixture
def coconut(runs: dict[str, Run]) -> Run:
    """The one of Coconut."""
    return runs["coconut"]
