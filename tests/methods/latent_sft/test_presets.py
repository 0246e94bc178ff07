"""Every preset, on a tiny random model of its architecture: all stages train, and the run answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latbench.config import RunConfig, parse, tree
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.runs.train import train
from tests.conftest import small_model

ARCHITECTURE = {"llama1b": "llama", "qwen7b": "qwen2", "smollm2": "llama"}
STEPS = 2


def small(preset: str, folder: Path) -> RunConfig:
    """The preset with a tiny model of its architecture, short data, and two optimiser steps in every stage."""
    name = None
    if preset != "tiny":
        name = next(found for start, found in ARCHITECTURE.items() if preset.startswith(start))
    usual = tree.preset("latent_sft", preset)
    names = ["joint"] if usual["method"].get("stage1") == "joint" else ["encoder", "decoder", "union"]
    stages = {stage: {"steps": STEPS} for stage in (*(f"stage1_{name}" for name in names), "stage2")}
    changes: dict[str, Any] = {
        "method": {"name": "latent_sft"},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "model": small_model(name, folder),
        "train": {"batch_size": 2, "accumulation": 2, "stages": stages},
        "generate": {"max_new_tokens": 4, "max_latents": 4, "batch_size": 4},
    }
    if "start" in usual:
        changes["start"] = {"train": {"max_steps": STEPS, "batch_size": 2, "accumulation": 1}}
    return parse(changes, preset=preset)


@pytest.mark.parametrize("preset", [name for name in tree.presets("latent_sft") if not name.endswith("-rl")])
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    config = small(preset, tmp_path / "model")
    usual = tree.preset("latent_sft", preset)
    for key, value in usual["method"].items():
        assert getattr(config.method, key) == value
    run = train(config, runs_dir=tmp_path / "runs")
    stages = run.method.stages()
    assert run.report["report"]["optimiser_steps"] == STEPS * len(stages)
    assert run.report["diagnostics"]["num_examples"] > 0
    if config.start is not None:
        assert run.report["costs"]["optimiser_steps"] == STEPS * (len(stages) + 1)
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records
    assert len(records) == 3 * config.generate.samples
    assert all(record.num_latents <= 4 for record in records)
