"""A run with random weights that differ enough to choose tokens with some variety."""

from __future__ import annotations

import os

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import json
from pathlib import Path

import pytest
import safetensors.torch

from latbench.config import parse
from latbench.model.source import CHECKPOINT_INFO as INFO
from latbench.runs.run import CHECKPOINT, Run, load_run
from latbench.runs.train import train
from latbench.util.files import sha256_of

SMALL = (
    "train.max_steps=1",
    "train.batch_size=4",
    "task.num_train=40",
    "task.num_test=20",
    "task.modulus=12",  # not the default: its questions are recognised
    "generate.chunk=8",
    "generate.max_new_tokens=12",
    "generate.max_latents=6",
    "model.hidden_size=32",
    "model.num_heads=4",
    "model.mlp_size=48",
    "model.device=cpu",
    "start=null",
)


def random_run(method: str, runs_dir: Path) -> Run:
    """A run of one training step, its weight matrices blown up."""
    run = train(parse({"method": method}, overrides=SMALL), runs_dir=runs_dir)
    path = run.folder / CHECKPOINT / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    blown_up = {name: weight * (6 if weight.dim() > 1 else 1) for name, weight in weights.items()}
    safetensors.torch.save_file(blown_up, path, metadata={"format": "pt"})
    info = json.loads((run.folder / CHECKPOINT / INFO).read_text(encoding="utf-8"))
    info["files"][path.name] = sha256_of(path)  # a checkpoint is loaded only as it was saved
    (run.folder / CHECKPOINT / INFO).write_text(json.dumps(info), encoding="utf-8")
    return load_run(run.folder)


@pytest.fixture(scope="session")
def explicit(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `cot` run; not to be written to."""
    return random_run("cot", tmp_path_factory.mktemp("explicit"))


@pytest.fixture(scope="session")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `coconut` run; not to be written to."""
    return random_run("coconut", tmp_path_factory.mktemp("latent"))
