"""What a training run will cost, before it is begun: steps and passes from its settings, operations from a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from latbench.config import StageOverrides, TrainConfig
from latbench.method import Method, Stage
from latbench.task import Example
from latbench.training.cost import FlopMeter
from latbench.training.trainer import fitting_examples, num_steps, set_trainable, stages_of

ROWS = 4  # whose loss is computed to count operations


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What a stage will cost."""

    name: str
    """Of the stage."""
    steps: int
    """Optimiser steps."""
    passes: int
    """Examples seen, each as often as it is; of reinforcement learning, prompts."""
    flops: float | None
    """Floating-point operations as `FlopMeter` counts them; None of reinforcement learning."""


def estimate_training(
    method: Method[Any],
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    num_processes: int = 1,
    rows: int = ROWS,
) -> list[StageEstimate]:
    """Steps and passes of each stage, and its operations from the loss of a few examples; nothing is trained.

    Args:
        method: as it is before training; its weights stay what they are.
        examples: trained on.
        config: the settings of training.
        num_processes: that share a step.
        rows: examples spread over the data, whose loss is computed.
    Returns: of each stage that is trained, in order.
    Raises: ValueError: unknown stage, or no example fits.
    """
    stages = [stage for stage in stages_of(method, config) if config.only is None or stage.name in config.only]
    if not all(stage.rollouts for stage in stages):
        method.build_auxiliary()
    found: list[StageEstimate] = []
    for stage in stages:
        left = None if config.max_steps is None else config.max_steps - sum(one.steps for one in found)
        if left == 0:
            break
        found.append(_estimate(method, stage, examples, config, num_processes=num_processes, rows=rows, left=left))
    return found


def _estimate(
    method: Method[Any],
    stage: Stage,
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    num_processes: int,
    rows: int,
    left: int | None,
) -> StageEstimate:
    fitting, _ = fitting_examples(method, stage, examples)
    overrides = config.stages.get(stage.name, StageOverrides())
    if stage.rollouts:
        assert config.rl is not None
        per_step, per_epoch = config.rl.prompts, ceil(len(fitting) / config.rl.prompts) * config.rl.updates
    else:
        per_step = config.batch_size * (overrides.accumulation or config.accumulation) * num_processes
        per_epoch = ceil(len(fitting) / per_step)
    steps = num_steps(stage, overrides, config, per_epoch)
    steps = steps if left is None else min(steps, left)
    if stage.rollouts:
        assert config.rl is not None
        return StageEstimate(name=stage.name, steps=steps, passes=steps * per_step // config.rl.updates, flops=None)
    passes = round(steps * len(fitting) / per_epoch)  # the steps of a pass are of nearly equal size
    measured = fitting[:: max(1, len(fitting) // rows)][:rows]
    return StageEstimate(
        name=stage.name, steps=steps, passes=passes, flops=passes * _flops(method, stage, measured) / len(measured)
    )


def _flops(method: Method[Any], stage: Stage, examples: Sequence[Example]) -> int:
    """Of the loss of some examples in one micro-batch, forward and backward; the backward pass is not run."""
    with TemporaryDirectory() as folder:
        method.prepare(stage, examples, Path(folder))
        set_trainable(method, stage)
        method.train()
        meter = FlopMeter(method)
        try:
            with torch.enable_grad():
                method(method.batch(examples, stage).to(method.backbone.device), stage)
        finally:
            meter.close()
            method.eval()
    return meter.take()
