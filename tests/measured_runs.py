"""Tiny trained runs, evaluated and traced, and what the tests of their measures share."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.logging import disable_progress_bar

from latbench.cli import main
from latbench.config import parse
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.measures.trace import trace
from latbench.runs.run import Run, load_run
from latbench.runs.train import train

SETTINGS = (
    "train.max_steps=3", "train.batch_size=4", "task.num_train=40", "task.num_test=20", "task.num_validation=4",
    "task.min_ops=2", "task.max_ops=4", "task.order=canonical", "task.step_names=false",
    "generate.chunk=8", "generate.max_new_tokens=6", "generate.max_latents=6", "model.hidden_size=16",
    "model.num_heads=2", "model.num_layers=1", "model.mlp_size=16", "model.dtype=float64",
)  # fmt: skip
METHODS = {
    "coconut": ("method.final_share=0.9",),  # feeds hidden states
    "latent_sft": ("method.noise=0", "method.top_k=8"),  # mixes, and has an encoder
}


@cache
def trained(folder: Path) -> dict[str, Run]:
    """A run of each method; not to be written to. Once a session: the folder is the session's."""
    made = {}
    for name, more in METHODS.items():
        run = train(parse({"method": name}, preset="none", overrides=[*SETTINGS, *more]), runs_dir=folder / "measured")
        evaluate(EvalJob.of(run, "synth"))
        trace(EvalJob.of(run, "synth"))
        made[name] = run
    return made


def copies(factory: pytest.TempPathFactory, folder: Path) -> dict[str, Run]:
    """A copy of these runs, alone in a folder."""
    runs = trained(factory.getbasetemp())
    shutil.copytree(runs["coconut"].folder.parent, folder / "measured")
    return {name: load_run(folder / "measured" / run.folder.name) for name, run in runs.items()}


def job_of(run: Run, **settings: Any) -> EvalJob:
    """The evaluation of a run on its own questions."""
    return EvalJob.of(run, "synth", **settings)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    disable_progress_bar()  # a process of its own has this from `main`, which here comes after the import
    capsys.readouterr()
    code = main(arguments)
    return code, *capsys.readouterr()
