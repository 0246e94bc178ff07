"""What a training run will cost, before it is begun: steps and passes from its settings, operations from a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from latbench.config import TrainConfig
from latbench.method import Method, Stage
from latbench.task import Example
from latbench.training.cost import FlopMeter
from latbench.training.stage_plan import StagePlan
from latbench.training.trainer import chosen, set_trainable, stages_of

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
    stages = chosen(stages_of(method, config), config)
    if not all(stage.rollouts for stage in stages):
        method.build_auxiliary()
    found: list[StageEstimate] = []
    for index, stage in enumerate(stages):
        left = None if config.max_steps is None else config.max_steps - sum(one.steps for one in found)
        if left == 0:
            break
        plan = StagePlan.of(method, stage, index, examples, config, num_processes=num_processes, budget=left)
        found.append(_estimate(method, plan, config, rows=rows))
    return found


def _estimate(method: Method[Any], plan: StagePlan, config: TrainConfig, *, rows: int) -> StageEstimate:
    stage, examples = plan.stage, plan.examples
    if stage.rollouts:
        assert config.rl is not None
        prompts = plan.steps * plan.rows_per_step // config.rl.updates
        return StageEstimate(name=stage.name, steps=plan.steps, passes=prompts, flops=None)
    passes = round(plan.steps * len(examples) / plan.steps_per_epoch)  # the steps of a pass are of nearly equal size
    measured = examples[:: max(1, len(examples) // rows)][:rows]
    longest = max(examples, key=lambda example: len(example.steps))  # what a method asks of its data at the most
    prepared = measured if longest in measured else [*measured, longest]
    flops = passes * _flops(method, stage, measured, prepared) / len(measured)
    return StageEstimate(name=stage.name, steps=plan.steps, passes=passes, flops=flops)


def _flops(method: Method[Any], stage: Stage, examples: Sequence[Example], prepared: Sequence[Example]) -> int:
    """Of the loss of some examples in one micro-batch, forward and backward.

    The backward pass is run with gradient checkpointing alone, which repeats forward passes in it.

    Args:
        prepared: what the method is told to be the training data.
    """
    with TemporaryDirectory() as folder:
        method.prepare(stage, prepared, Path(folder))
        set_trainable(method, stage)
        method.train()
        meter = FlopMeter(method)
        try:
            with torch.enable_grad():
                losses = method(method.batch(examples, stage).to(method.backbone.device), stage)
                if method.backbone.config.gradient_checkpointing:
                    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
                    torch.autograd.grad(losses.objective(), trained, allow_unused=True)
        finally:
            meter.close()
            method.eval()
    return meter.take()
