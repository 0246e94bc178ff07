"""Does a step along the gradient of a policy's surrogate raise the reward? Before any training, from a finished run.

    python benchmarks/rl_direction.py RUN [--preset tiny-rl] [--variant 'key=value key=value' ...]
        [--prompts 256] [--questions 768] [--steps 0.02 -0.02]

For each variant of the preset's settings: draw rollouts, take the gradient of the surrogate's loss at its first update,
and move all weights against it by a length, or, for a negative length, along it. The reward is that of questions of
another pass over the data, with the same draws before and after each move. A surrogate that leads uphill gains with a
short step and loses with its reverse; one whose gradient has little to do with the reward gains or loses as much either
way; and where both lose much, the length is too great, whatever the direction. The error is that of the mean over
questions of the paired differences.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate

from latbench import registry
from latbench.api import load_run
from latbench.config import RunConfig, parse
from latbench.method import Method
from latbench.training.rl.rollouts import RolloutSource, quiet
from latbench.training.rl.surrogate import policy_losses

PARTS = 8  # micro-batches of a gradient
FAR = 50_000  # draw that the questions of the reward begin with: on `synth` that of the second pass


def gradient(method: Method[Any], source: RolloutSource) -> dict[str, torch.Tensor]:
    """That of the loss at the first update, by name of the parameter."""
    method.zero_grad()
    quiet(method)
    batches = source.batches(0)
    num_items: Counter[str] = Counter()
    for batch in batches:
        num_items.update(batch.num_items)
    for batch in batches:
        policy_losses(method.action_log_probs(batch), batch, source.config).objective(num_items).backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@torch.no_grad()
def rewards(source: RolloutSource, num: int) -> torch.Tensor:
    """(num,) mean reward of each question's answers, always of the same draws."""
    groups = source._answer(range(FAR, FAR + num))
    return torch.tensor([statistics.mean(row.reward for row in group.rollouts) for group in groups])


def probe(method: Method[Any], config: RunConfig, num: int, steps: Sequence[float]) -> list[str]:
    """The reward without a step, and what each step changes."""
    assert config.train.rl is not None
    method.config = config.method
    task = registry.get_task_entry(config.task_name).cls(config.task)
    source = RolloutSource(method, task.load("train"), task, config.train.rl, seed=config.seed, parts=PARTS)
    direction = gradient(method, source)
    length = torch.stack([part.norm() for part in direction.values()]).norm()
    weights = {name: p for name, p in method.named_parameters() if name in direction}
    before = {name: p.detach().clone() for name, p in weights.items()}
    start = rewards(source, num)
    row = [f"{float(start.mean()):.3f}"]
    for step in steps:
        for name, p in weights.items():
            p.data.copy_(before[name] - step * direction[name] / length)
        change = rewards(source, num) - start
        row.append(f"{float(change.mean()):+.3f} ± {float(change.std()) / num**0.5:.3f}")
    for name, p in weights.items():
        p.data.copy_(before[name])
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a trained run")
    parser.add_argument("--preset", default="tiny-rl")
    parser.add_argument("--variant", action="append", default=[], help="settings, as after --set; may be repeated")
    parser.add_argument("--prompts", type=int, default=256, help="groups of the gradient")
    parser.add_argument("--questions", type=int, default=768, help="of the reward")
    parser.add_argument("--steps", type=float, nargs="+", default=[0.02, -0.02])
    options = parser.parse_args()
    run = load_run(options.run)
    rows = []
    for variant in options.variant or [""]:
        settings = f"{variant} train.rl.prompts={options.prompts}".split()
        config = parse({"method": {"name": run.method.name}}, preset=options.preset, overrides=settings)
        rows.append([variant or "the preset's", *probe(run.method, config, options.questions, options.steps)])
    print(f"{options.run}, {options.preset}: reward of {options.questions} questions, and its change by a step")
    print(tabulate(rows, ["", "reward", *(f"step {step:+}" for step in options.steps)], disable_numparse=True))


if __name__ == "__main__":
    main()
