"""Whatever way a result comes about, it passes `leaderboard --check`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latbench.cli import main
from latbench.config import RunConfig, parse
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.rerun import rerun
from latbench.runs.run import Run
from latbench.runs.train import train
from latbench.submission import check, check_evaluation

TINY = ("model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "model.mlp_size=16")
BASE = ("eval", "--model", "tiny", "--method", "cot", "--limit", "3", "--tasks", "synth")
SWEEP = """
base:
  task: {num_train: 40, num_test: 6}
  train: {max_steps: 1, batch_size: 4}
  generate: {max_new_tokens: 4}
  model: {hidden_size: 16, num_heads: 2, num_layers: 1, mlp_size: 16}
methods: [cot]
settings: [{}, {generate.temperature: 0.5}]
evaluate: [synth, graphs]
limit: 2
"""


def evaluation_of(folder: Path) -> Path:
    """The one evaluation in a folder."""
    (found,) = folder.rglob("manifest.json")
    return found.parent


def command(*arguments: str, runs_dir: Path) -> Path:
    settings = [f"--set={text}" for text in (*TINY, "generate.max_new_tokens=4") if arguments[0] == "eval"]
    assert main([*arguments, *settings, "--runs-dir", str(runs_dir)]) == 0
    return evaluation_of(runs_dir)


def decoding(run: Run, _: Path) -> Path:
    changes = {"generate.samples": 2, "generate.temperature": 1.0, "generate.batch_size": 3, "generate.chunk": 2}
    return evaluate(EvalJob.of(run, "synth", limit=5, changes=changes))


def as_it_comes_with_other_decoding(run: Run, folder: Path) -> Path:
    """After an evaluation with the usual decoding: it goes into the same run, beside that."""
    first = command(*BASE, runs_dir=folder)
    assert (
        main([*BASE, *(f"--set={text}" for text in TINY), "--set=generate.max_new_tokens=7", "--runs-dir", str(folder)])
        == 0
    )
    assert len(list(folder.iterdir())) == 1
    (other,) = {path.parent for path in folder.rglob("manifest.json")} - {first}
    return other


def from_a_checkpoint(run: Run, folder: Path) -> Path:
    model = str(run.folder / "checkpoint")
    assert main(["eval", "--model", model, "--method", "cot", "--limit", "3", "--runs-dir", str(folder)]) == 0
    return evaluation_of(folder)


def started(run: Run, folder: Path) -> Path:
    given = run.config.to_tree() | {"start": {"method": "cot", "train": {"max_steps": 1}}}
    config = parse(given, preset="none", overrides=["train.max_steps=1"])
    return evaluate(EvalJob.of(train(config, runs_dir=folder), "synth", limit=3))


def training_free_over_a_run(run: Run, folder: Path) -> Path:
    given = run.config.to_tree() | {"start": {"method": "cot", "train": {"max_steps": 1}}, "method": "soft_thinking"}
    config = parse(given, preset="none")
    return evaluate(EvalJob.of(train(config, runs_dir=folder), "synth", limit=3))


WAYS: dict[str, Callable[[Run, Path], Path]] = {
    "a trained run": lambda run, _: evaluate(EvalJob.of(run, "synth")),
    "limit": lambda run, _: evaluate(EvalJob.of(run, "synth", limit=3)),
    "samples, decoding, batches and chunks": decoding,
    "another seed": lambda run, _: evaluate(EvalJob.of(run, "synth", limit=3, changes={"seed": 5})),
    "another split": lambda run, _: evaluate(EvalJob.of(run, "synth", split="validation", limit=3)),
    "another task": lambda run, _: evaluate(EvalJob.of(run, "graphs", limit=3)),
    "another scorer": lambda run, _: evaluate(
        EvalJob.of(run, "synth", limit=3, changes={"task.scorer": "last_number"})
    ),
    "the task set up otherwise": lambda run, _: evaluate(
        EvalJob.of(run, "synth", limit=3, changes={"task.max_ops": 4, "task.num_test": 9})
    ),
    "a model as it comes": lambda run, folder: command(*BASE, runs_dir=folder),
    "a model as it comes, another seed": lambda run, folder: command(*BASE, "--seed", "3", runs_dir=folder),
    "a model as it comes, other decoding": as_it_comes_with_other_decoding,
    "a run's checkpoint as a model": from_a_checkpoint,
    "a run with a start": started,
    "a training-free method over a run": training_free_over_a_run,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_result_passes_the_check(run: Run, tmp_path: Path, way: str) -> None:
    folder = WAYS[way](run, tmp_path / "made")
    assert check_evaluation(folder).problems == []


def test_a_repetition_passes_the_check(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=3))
    assert check_evaluation(rerun(result, runs_dir=run.folder.parent).folder).problems == []


def test_a_repetition_of_a_model_as_it_comes_has_the_name_of_the_result(tmp_path: Path) -> None:
    result = command(*BASE, runs_dir=tmp_path / "runs")
    found = rerun(result, runs_dir=tmp_path / "runs")
    assert found.num_identical == found.n == 3
    assert found.folder.parents[1].name == result.parents[1].name
    assert check_evaluation(found.folder).problems == []


def test_the_results_of_a_sweep_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--runs-dir", str(tmp_path / "runs")]) == 0
    found = check([tmp_path / "runs"])
    assert found.problems == []
    assert found.num_evaluations == 4


def test_a_renamed_run_is_refused(small: RunConfig, run: Run, tmp_path: Path) -> None:
    """A folder's name is the hash of the configuration that made it."""
    folder = shutil.copytree(run.folder, tmp_path / "mine")
    renamed: Any = Run(folder, small)
    problems = check_evaluation(evaluate(EvalJob.of(renamed, "synth", limit=2))).problems
    assert len(problems) == 1
    assert f"run is 'mine' in the manifest, but {small.run_id!r} follows" in problems[0]
