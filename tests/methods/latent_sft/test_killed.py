"""SIGKILL in every stage and while soft labels are written: the resumed run ends with the same bits."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.test_runs_killed import command, contents, finish, num_lines, only_run, start

STAGES = ("stage1_encoder", "stage1_decoder", "stage1_union", "stage2")
SETTINGS = (
    "start=null", "task.num_train=2500", "task.num_test=4", "model.num_layers=1", "model.hidden_size=32",
    "model.mlp_size=48", "method.stage1=sequential", "train.batch_size=8", "train.save_every=4", "train.log_every=1",
    *(f"train.stages.{stage}.steps=12" for stage in STAGES),
)  # fmt: skip
KEPT = ("checkpoint/*.safetensors", "stages/*/log.jsonl", "stages/*/soft_labels/*", "stages/*/diagnostics.json")
ENCODER = "checkpoint/auxiliary/encoder/model.safetensors"

pytestmark = pytest.mark.slow


def train_command(runs_dir: Path) -> list[str]:
    return command("train", "--method", "latent_sft", "--resume", "--runs-dir", str(runs_dir), settings=SETTINGS)


def reached(runs_dir: Path, moment: str, since: int) -> bool:
    """Whether the run is six steps into a stage, or has written its first soft labels."""
    if moment == "labels":
        return any(path.stat().st_size > 0 for path in runs_dir.glob("*/stages/*/soft_labels/offsets.bin"))
    return num_lines(list(runs_dir.glob(f"*/stages/*-{moment}/log.jsonl")), since) >= 6


def test_a_run_killed_in_every_stage_and_among_its_soft_labels_ends_the_same(tmp_path: Path) -> None:
    peace, war = tmp_path / "peace", tmp_path / "war"
    finish(train_command(peace))
    for moment in (*STAGES[:3], "labels", STAGES[3]):
        since = time.time_ns()
        process = start(train_command(war))
        while not reached(war, moment, since) and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, moment
    assert not list(war.glob("*/train.json"))
    finish(train_command(war))
    assert contents(only_run(war), *KEPT) == contents(only_run(peace), *KEPT)
    undisturbed, resumed = (load_file(only_run(runs) / ENCODER) for runs in (peace, war))  # metadata has no fixed order
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
