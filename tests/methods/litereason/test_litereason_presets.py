"""Presets of LiteReason, made small: all stages train, and the run answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latbench.config import parse, tree
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.registry import get_task_entry
from latbench.runs.train import train
from tests.conftest import small_model

SUPERVISED = [
    pytest.param(name, marks=() if name == "tiny" else pytest.mark.slow)
    for name in tree.presets("litereason")
    if not name.endswith("-rl")
]


@pytest.mark.parametrize("preset", SUPERVISED)
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    usual = tree.preset("litereason", preset)
    stages = {"projector": {"steps": 2}, **({"tags": {"steps": 2}} if preset == "tiny" else {})}
    changes: dict[str, Any] = {
        "method": {"name": "litereason", "traces": "gold", "guide": False},  # random weights answer nothing right
        "task": {"name": "synth", "num_train": 16, "num_test": 3},
        "model": small_model(None if preset == "tiny" else "qwen2", tmp_path / "model"),
        "train": {"batch_size": 2, "accumulation": 2, "stages": stages},
        "generate": {"max_new_tokens": 4, "max_latents": 4, "batch_size": 4},
    }
    if "start" in usual:
        changes["start"] = {"train": {"max_steps": 2, "batch_size": 2, "accumulation": 1}}
    config = parse(changes, preset=preset)
    assert config.train.lr == usual["train"]["lr"]
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2 * len(stages)
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records
    assert len(records) == 3 * config.generate.samples
    zeros = parse({**changes, "generate": {**changes["generate"], "method": {"latents": "zeros"}}}, preset=preset)
    assert zeros.run_id == config.run_id  # a control is another evaluation of the same run


def test_the_papers_presets_are_of_tasks_and_layouts_that_there_are() -> None:
    for name, given in tree.presets("litereason").items():
        assert get_task_entry(given["task"]["name"]), name
        if name.startswith("qwen"):
            config = parse({"method": "litereason"}, preset=name)
            assert config.model.layout == "plain_boxed"
            assert config.method.traces == "own"
            assert config.method.replaced == (0.10, 0.25)
    rl = parse({"method": "litereason"}, preset="qwen3-4b-flawed-fictions-rl").train.rl
    assert rl is not None
    assert (rl.prompts, rl.group_size, rl.prompts * rl.group_size // rl.minibatches, rl.lr) == (48, 16, 48, 5e-7)
    assert rl.steps / rl.updates * rl.prompts / 290 == pytest.approx(30, rel=0.01)  # passes over the stories
