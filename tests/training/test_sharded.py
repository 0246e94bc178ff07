"""FSDP2 over two processes on a CPU: weights of a single process, resume, the exported checkpoint; refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from latbench.cli import main
from latbench.runs.run import load_run

SCRIPT = Path(__file__).with_name("sharded_run.py")
CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: "no"
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""
SETTINGS = [
    "train.max_steps=4", "train.batch_size=4", "train.save_every=2", "train.precision=float32", "task.num_train=40",
    "task.num_test=6", "generate.max_new_tokens=4", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=2",
    "model.mlp_size=16", "model.lora={rank: 2, alpha: 4}",
]  # fmt: skip


def train(folder: Path, *settings: str, method: str = "cot", sharded: bool, stop: int = 0) -> Path:
    """The run's folder."""
    folder.mkdir(exist_ok=True)
    (folder / "fsdp.yaml").write_text(CONFIG)
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "fsdp.yaml")]
    start += ["--main_process_port", "0", str(SCRIPT)]
    command = [*(start if sharded else [sys.executable, "-m", "latbench"]), "train", "--method", method, "--resume"]
    command += ["--runs-dir", str(folder / "runs"), *(f"--set={text}" for text in [*SETTINGS, *settings])]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "STOP_AFTER": str(stop)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder / "runs").glob(f"*-{method}-*")
    return run


@pytest.mark.slow
def test_sharded_training_with_lora_ends_with_the_weights_of_one_process(tmp_path: Path) -> None:
    run = train(tmp_path / "two", sharded=True)
    alone = train(tmp_path / "one", "train.batch_size=8", sharded=False)
    ours, theirs = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (run, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
    costs = [json.loads((folder / "train.json").read_text())["costs"] for folder in (run, alone)]
    for name in ("optimiser_steps", "examples_seen", "tokens_seen", "flops"):
        assert costs[0][name] == pytest.approx(costs[1][name], rel=0.2 if name == "flops" else 0)
    AutoModelForCausalLM.from_pretrained(run / "checkpoint")
    assert main(["eval", str(run), "--limit", "2"]) == 0
    resumed = train(tmp_path / "again", sharded=True, stop=3)
    assert not (resumed / "train.json").exists()
    assert train(tmp_path / "again", sharded=True) == resumed
    again = load_file(resumed / "checkpoint" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())
    assert load_run(resumed).is_complete


@pytest.mark.slow
def test_stages_follow_each_other_with_whole_weights(tmp_path: Path) -> None:
    settings = ["method.max_stage=1", "train.max_steps=null", "task.num_train=8"]
    run = train(tmp_path / "two", *settings, method="coconut", sharded=True)
    alone = train(tmp_path / "one", *settings, "train.batch_size=8", method="coconut", sharded=False)
    assert len(list(run.glob("stages/*/report.json"))) > 1
    ours, theirs = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (run, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("variables", "settings", "sentence"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, [], "Accelerate is configured for DeepSpeed, whose engine"),
        ({"ACCELERATE_USE_FSDP": "true"}, [], "Accelerate is configured for FSDP 1; set fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            [],
            "fsdp_offload_params is not supported",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            ["train.reset_optimizer=false"],
            "train.reset_optimizer=false does not go with FSDP",
        ),
        ({}, ["model.device_map=auto", "model.device=auto"], "model.device_map is 'auto', which is for inference"),
    ],
    ids=["deepspeed", "fsdp1", "offload", "moments", "device_map"],
)
def test_what_cannot_be_trained_so_is_one_sentence(
    variables: dict[str, str],
    settings: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = ["train", "--method", "cot", "--runs-dir", str(tmp_path / "runs")]
    assert main([*command, *(f"--set={text}" for text in [*SETTINGS, *settings])]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {sentence}")
    assert not list((tmp_path / "runs").glob("*"))
