"""Resident memory of long training and evaluation: it must not grow with the number of steps or questions.

Training: `cot` on sequences of widely varying lengths, with the release of freed memory that latbench does by itself
and without it (as the C library leaves it). Each runs in a process of its own; the table shows resident memory after
the given steps, the most after any of the sixteen steps up to there (which depends on how long their sequences were),
and CPU seconds. Target: the last step within 10 % of step 48.
Evaluation: chunk after chunk of questions through one decoding call each, resident memory after every chunk.

    python benchmarks/memory.py [--steps 400] [--hidden 64] [--layers 8] [--batch 16] [--chunks 8]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import psutil
import torch
from tabulate import tabulate

from latbench import registry
from latbench.config import GenerateConfig, ModelConfig, TrainConfig
from latbench.decoding.loop import Prompt, decode
from latbench.decoding.rule import StepRule
from latbench.model.backbone import Backbone
from latbench.task import Example
from latbench.training import stage_trainer
from latbench.training.trainer import train_method
from latbench.util import heap

SHOWN = (16, 48, 96, 192, 304, 400)  # all of them steps at which memory is released


def resident() -> float:
    """Of this process, in MB."""
    return float(psutil.Process().memory_info().rss) / 2**20


def examples(num: int) -> list[Example]:
    """Questions and chains whose lengths spread over a factor of twenty."""
    generator = random.Random(0)

    def times(middle: float) -> int:
        return max(1, round(generator.lognormvariate(middle, 0.7)))

    return [
        Example(
            id=str(index),
            question="n0 = 3 + 4; " * times(1.3) + "n0 = ?",
            steps=tuple(f"<<{step}+{index % 9}={step + index % 9}>>" for step in range(times(2.2))),
            answer=str(index % 50),
        )
        for index in range(num)
    ]


def train(options: argparse.Namespace, *, releases: bool) -> None:
    """Train in this process and print a row for each of the steps that are shown."""
    if not releases:
        stage_trainer.RELEASE_EVERY = options.steps + 1
    recent: deque[float] = deque(maxlen=16)
    done, step = stage_trainer.StageTrainer.step_done, 0

    def step_done(trainer: stage_trainer.StageTrainer) -> None:
        nonlocal step
        done(trainer)
        step += 1
        recent.append(resident())
        if step in SHOWN:
            print(step, f"{recent[-1]:.0f}", f"{max(recent):.0f}", f"{time.process_time():.0f}", flush=True)

    setattr(stage_trainer.StageTrainer, "step_done", step_done)  # noqa: B010
    entry = registry.get_method("cot")
    method = entry.cls(Backbone.load(model(options), seed=0), entry.config())
    config = TrainConfig(batch_size=options.batch, max_steps=options.steps, save_every=10 * options.steps)
    with tempfile.TemporaryDirectory() as folder:
        train_method(method, examples(options.steps * options.batch), config, folder=Path(folder), seed=0)


def evaluate(options: argparse.Namespace) -> None:
    """Answer chunks of questions in this process and print resident memory after each."""
    backbone = Backbone.load(model(options), seed=0)
    questions = examples(options.chunks * 256)
    config = GenerateConfig(max_new_tokens=64)
    for chunk in range(options.chunks):
        asked = questions[chunk * 256 : (chunk + 1) * 256]
        prompts = [Prompt(id=example.id, text=example.question) for example in asked]
        decode(backbone, [backbone.prompt(prompt.text) for prompt in prompts], prompts, StepRule(backbone), config)
        heap.release()
        print(chunk + 1, f"{resident():.0f}", flush=True)


def model(options: argparse.Namespace) -> ModelConfig:
    """The embedded backbone in the size that was asked for."""
    return ModelConfig(hidden_size=options.hidden, num_layers=options.layers, mlp_size=3 * options.hidden, device="cpu")


def rows_of(job: str) -> list[list[str]]:
    """What this benchmark prints when it runs one job in a process of its own."""
    command = [sys.executable, *sys.argv, "--job", job]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split() for line in out.splitlines() if line[:1].isdigit()]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--job", choices=["released", "as the C library leaves it", "evaluate"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.job == "evaluate":
        evaluate(options)
    elif options.job is not None:
        train(options, releases=options.job == "released")
    else:
        names = ("released", "as the C library leaves it")
        table = [[name, *row] for name in names for row in rows_of(name)]
        print(tabulate(table, ["training", "step", "MB", "most of 16 steps", "CPU s"]))
        print(tabulate(rows_of("evaluate"), ["evaluation: chunks of 256 questions", "MB"]))


if __name__ == "__main__":
    main()
