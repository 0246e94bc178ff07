"""Presets of reinforcement learning, made small: from a run of the method's own, through rollouts, to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latbench.config import parse, tree
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.runs.train import train
from latbench.task import Task
from tests.conftest import small_model

PRESETS = [
    pytest.param(method, preset, marks=() if preset == "tiny-rl" else pytest.mark.slow)
    for method in ("colar", "cot", "latent_sft", "litereason")
    for preset, given in tree.presets(method).items()
    if given.get("train", {}).get("rl")
]


def small(start: dict[str, Any], method: str) -> dict[str, Any]:
    """The runs that a run starts from, two steps for each of their stages."""
    if method == "litereason":
        return small_tagged(start)
    stages = ("sft", "stage1_encoder", "stage1_decoder", "stage1_union", "stage1_joint", "stage2")
    used = [stage for stage in stages if (stage == "sft") == (method != "latent_sft")]
    joint = start.get("preset", "tiny") == "tiny"
    used = [stage for stage in used if ("joint" in stage) == joint or "stage1" not in stage]
    train = {"batch_size": 2, "accumulation": 1, "stages": {stage: {"steps": 2} for stage in used}}
    inner = {} if method == "cot" else {"start": {"train": {"max_steps": 2, "batch_size": 2, "accumulation": 1}}}
    return {"train": train, **inner}


def small_tagged(start: dict[str, Any]) -> dict[str, Any]:
    """LiteReason's: masked are the data's own chains, since random weights answer nothing right."""
    tiny = start.get("preset") == "tiny"
    stages = {"projector": {"steps": 2}, **({"tags": {"steps": 2}} if tiny else {})}
    inner = {"start": {"train": {"max_steps": 2, "batch_size": 2, "accumulation": 1}}} if tiny else {}
    return {"method": {"traces": "gold"}, "train": {"batch_size": 2, "accumulation": 1, "stages": stages}, **inner}


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_a_preset_starts_rolls_out_learns_and_answers(
    method: str, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "rewards", lambda self, pairs: [float(index % 2) for index in range(len(pairs))])
    architecture = None if preset == "tiny-rl" else "qwen2" if "qwen" in preset else "llama"
    given = tree.preset(method, preset)
    rollout = {"max_new_tokens": 4, "max_latents": 4}
    changes: dict[str, Any] = {
        "method": {"name": method},
        "task": {"name": "synth", "num_train": 16, "num_test": 3, "num_validation": 4},
        "model": small_model(architecture, tmp_path / "model"),
        "train": {
            "accumulation": 1,
            "rl": {"steps": 2, "prompts": 2, "group_size": 2, "minibatches": 1, "eval_every": 1, "rollout": rollout},
        },
        "generate": {"max_new_tokens": 4, "max_latents": 4, "batch_size": 4},
        "start": small(given["start"], method),
    }
    if method == "litereason":
        changes["method"] |= {"guide": False, "traces": "gold"}  # the context of the small model
        changes["start"]["method"] |= {"guide": False}
    config = parse(changes, preset=preset)
    assert config.train.rl is not None
    assert config.train.rl.lr == given["train"]["rl"]["lr"]
    run = train(config, runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == 2
    assert run.report["report"]["rollouts"] == 2 * 2 * 2
    assert run.report["costs"]["rollouts"] == 8
    assert [point[0] for point in run.report["diagnostics"]["rl"]["held_out"]] == [0, 1, 2]
    assert len(read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records) == 3 * config.generate.samples
    if method == "latent_sft":  # the encoder of the start stays at hand for measures
        assert run.with_helpers_for("label_latents").method.auxiliary


def test_the_presets_are_there() -> None:
    assert {parameters.values[0] for parameters in PRESETS} == {"colar", "cot", "latent_sft", "litereason"}
