"""What one stage of a training will do: on which examples, in which steps, how many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from latbench.config import StageOverrides, TrainConfig
from latbench.method import Method, Stage
from latbench.task import Example
from latbench.training.order import Order


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage with all that follows from the settings and the data before anything is trained."""

    stage: Stage
    """Of the method."""
    index: int
    """Its place among the stages of this training."""
    examples: list[Example]
    """Those that it can train on."""
    skipped: dict[str, int]
    """How many others there are, by reason."""
    rows_per_step: int
    """Examples of an optimiser step over all processes; of reinforcement learning, prompts of a rollout."""
    accumulation: int
    """Micro-batches that each process adds up to a step; fewer where a step has fewer rows."""
    steps_per_epoch: int
    """Optimiser steps of a pass over the examples."""
    steps: int
    """Optimiser steps of the stage."""
    first_epoch: int
    """Passes of the stages before, so that no stage repeats an order or a noise of another."""
    lr: float
    """Peak learning rate."""
    seed: int
    """Of the data's order and of dropout."""
    num_processes: int
    """Processes that share a step."""
    by_length: bool
    """The rows of a step have similar lengths."""

    @classmethod
    def of(
        cls,
        method: Method[Any],
        stage: Stage,
        index: int,
        examples: Sequence[Example],
        config: TrainConfig,
        *,
        seed: int = 0,
        num_processes: int = 1,
        budget: int | None = None,
        first_epoch: int = 0,
    ) -> StagePlan:
        """The plan of a stage.

        Args:
            method: as it is before training.
            stage: of the method.
            index: its place among the stages of this training.
            examples: of the training split.
            config: the settings of training.
            seed: of the training.
            num_processes: that share a step.
            budget: optimiser steps left; None: no cap.
            first_epoch: passes of the stages before.
        Raises: ValueError: no example fits.
        """
        fitting, skipped = fitting_examples(method, stage, examples)
        overrides = config.stages.get(stage.name, StageOverrides())
        accumulation = overrides.accumulation or config.accumulation
        if stage.rollouts:
            assert config.rl is not None
            rows_per_step, updates = config.rl.prompts, config.rl.updates
        else:
            rows_per_step, updates = config.batch_size * accumulation * num_processes, 1
        steps_per_epoch = ceil(len(fitting) / rows_per_step) * updates
        steps = _num_steps(stage, overrides, config, steps_per_epoch)
        return cls(
            stage=stage,
            index=index,
            examples=fitting,
            skipped=skipped,
            rows_per_step=rows_per_step,
            accumulation=accumulation,
            steps_per_epoch=steps_per_epoch,
            steps=steps if budget is None else min(steps, budget),
            first_epoch=first_epoch,
            lr=overrides.lr or stage.lr or config.lr,
            seed=seed,
            num_processes=num_processes,
            by_length=config.bucket_by_length,
        )

    @cached_property
    def order(self) -> Order:
        """Which examples each step of a supervised stage sees. Raises: ValueError: fewer examples than processes."""
        return Order(
            num_rows=len(self.examples),
            rows_per_step=self.rows_per_step,
            num_parts=self.accumulation * self.num_processes,
            num_processes=self.num_processes,
            seed=self.seed,
            lengths=[_num_characters(example) for example in self.examples] if self.by_length else None,
        )

    @property
    def parts_per_process(self) -> int:
        """Micro-batches of a step at each process."""
        return self.accumulation if self.stage.rollouts else self.order.parts_per_process

    @property
    def fingerprint(self) -> dict[str, int]:
        """What must be equal for a resume point to fit, by its name in messages."""
        return {
            "examples": len(self.examples),
            "seed": self.seed,
            "steps": self.steps,
            "examples per step": self.rows_per_step,
        }


def fitting_examples(
    method: Method[Any], stage: Stage, examples: Sequence[Example]
) -> tuple[list[Example], dict[str, int]]:
    """Examples that the stage can train on, and how many are left out for each reason.

    Raises: ValueError: none fits.
    """
    fitting, reasons = [], Counter[str]()
    for example in examples:
        reason = _no_rollout_reason(method, example) if stage.rollouts else method.skip_reason(example, stage)
        if reason is None:
            fitting.append(example)
        else:
            reasons[reason] += 1
    if not fitting:
        why = reasons.most_common(1)[0][0] if reasons else "there is none"
        advice = "use shorter data or a model with a longer context" if "context" in why else "use other data"
        raise ValueError(f"none of {len(examples)} training examples fits stage {stage.name!r} ({why}); {advice}")
    return fitting, dict(sorted(reasons.items()))


def _no_rollout_reason(method: Method[Any], example: Example) -> str | None:
    """Why a question cannot be asked in rollouts, or None."""
    if not example.answer.strip():
        return "no answer to check"
    return method.backbone.beyond_context(len(method.prompt_ids(example.question)) + 1)


def _num_characters(example: Example) -> int:
    """Length for bucketing: close to the number of tokens, and free."""
    return len(example.question) + sum(map(len, example.steps)) + len(example.answer)


def _num_steps(stage: Stage, overrides: StageOverrides, config: TrainConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of a stage: overrides, then what the stage says, then its share of `train.epochs`."""
    steps, epochs = overrides.steps, overrides.epochs
    if steps is None and epochs is None:
        steps, epochs = stage.steps, stage.epochs
    if steps is not None:
        return steps
    return max(1, round((config.epochs * stage.share if epochs is None else epochs) * steps_per_epoch))
