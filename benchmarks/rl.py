"""Updates of explicit GRPO against TRL's GRPOTrainer on the same model, prompts, group size and lengths.

Both start from the same weights and draw as many answers to as many questions: random ones, whose answers nearly always
run to the cap and are rewarded for an even number of characters, or those of a trained run of `cot` (`--run`), with
natural lengths and the gold answer as reward. An update is a rollout, its scoring, and one step
on all of its answers (TRL generates with transformers). Ours goes through the whole stage, with its figures and resume
points; held-out questions are left out. Pairs of runs alternate, so that a busy machine slows both; of an update's
seconds the median counts. On a CPU that others use, the ratio of CPU seconds is the steadier one. The last table says
where our time goes.

    python benchmarks/rl.py [--updates 8] [--prompts 16] [--group 8] [--tokens 48] [--pairs 2] [--hidden 128]
        [--layers 2] [--run RUN]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tabulate import tabulate
from transformers import TrainerCallback

from latbench import registry
from latbench.api import load_run
from latbench.config import ModelConfig, RLConfig, RolloutConfig, TrainConfig
from latbench.method import HeldOut
from latbench.model.backbone import Backbone
from latbench.task import Example
from latbench.training.rl.policy_trainer import RolloutTrainer
from latbench.training.trainer import train_method


def reward(text: str, answer: str, trained: bool) -> float:
    """The reward of both: an answer of one character at the text's end, or an even length."""
    return float(text.strip().endswith(answer) if trained else len(text) % 2 == 0)


class Clock:
    """Wall and CPU seconds between the ends of updates."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def tick(self) -> None:
        """An update has ended."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.wall.append(time.perf_counter())
        self.cpu.append(used.ru_utime + used.ru_stime)

    def medians(self) -> tuple[float, float]:
        """Median seconds of an update, wall and CPU."""
        pairs = [[after - before for before, after in pairwise(row)] for row in (self.wall, self.cpu)]
        return statistics.median(pairs[0]), statistics.median(pairs[1])


def ours(
    model: ModelConfig, examples: Sequence[Example], options: argparse.Namespace
) -> tuple[Clock, dict[str, float]]:
    """Train `cot`; also the seconds of an update by part."""
    entry, task = registry.get_method("cot"), registry.get_task_entry("synth")
    synth = task.cls(task.config())
    synth.rewards = lambda pairs: [  # type: ignore[method-assign]
        reward(text, example.answer, bool(options.run)) for text, example in pairs
    ]
    rl = RLConfig(
        steps=options.updates, prompts=options.prompts, group_size=options.group, eval_every=0,
        rollout=RolloutConfig(max_new_tokens=options.tokens, batch_size=options.prompts * options.group),
    )  # fmt: skip
    method = entry.cls(Backbone.load(model, seed=0), entry.config())
    method.prompt_ids = lambda question, config=None: prompt(method.backbone, question, options)
    clock, done = Clock(), RolloutTrainer.step_done

    def step_done(self: RolloutTrainer) -> None:
        done(self)
        clock.tick()

    RolloutTrainer.step_done = step_done  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as name:
            train_method(
                method, examples, TrainConfig(only=["rl"], rl=rl), folder=Path(name), seed=0,
                held_out=HeldOut(task=synth, split="train", examples=examples),
            )  # fmt: skip
            report = json.loads((Path(name) / "stages/0-rl/diagnostics.json").read_text())["rl"]["seconds"]
    finally:
        RolloutTrainer.step_done = done  # type: ignore[method-assign]
    parts = {part: seconds / options.updates for part, seconds in report.items()}
    return clock, parts | {"update": clock.medians()[0] - sum(parts.values())}


def prompt(backbone: Backbone, question: str, options: argparse.Namespace) -> list[int]:
    """Of a random model all is answer: it would hardly ever close its thought."""
    return backbone.prompt(question) if options.run else backbone.closed_prompt(question)


def theirs(model: ModelConfig, examples: Sequence[Example], options: argparse.Namespace) -> Clock:
    """Train with TRL."""
    import trl
    from datasets import Dataset

    backbone, clock = Backbone.load(model, seed=0), Clock()
    tokenizer = backbone.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as name:
        args = trl.GRPOConfig(  # type: ignore[attr-defined]
            output_dir=name, use_cpu=backbone.device.type == "cpu", bf16=False, report_to="none", disable_tqdm=True,
            logging_steps=50, save_strategy="no", max_steps=options.updates, learning_rate=1e-6, beta=0.0,
            per_device_train_batch_size=options.prompts * options.group, num_generations=options.group,
            max_completion_length=options.tokens, temperature=1.0, loss_type="grpo", gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trl.GRPOTrainer(  # type: ignore[attr-defined]
            model=backbone.model,
            reward_funcs=lambda completions, answer, **_: [
                reward(text, gold, bool(options.run)) for text, gold in zip(completions, answer, strict=True)
            ],
            args=args,
            train_dataset=Dataset.from_list(
                [
                    {"prompt": tokenizer.decode(prompt(backbone, one.question, options)), "answer": one.answer}
                    for one in examples
                ]
            ),
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
        trainer.train()
    return clock


def main() -> None:
    """Run the pairs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--run", type=Path, help="folder of a trained run of cot on synth")
    options = parser.parse_args()
    model = ModelConfig(hidden_size=options.hidden, num_layers=options.layers, mlp_size=3 * options.hidden)
    task = registry.get_task_entry("synth")
    settings = task.config()
    if options.run:
        model, settings = ModelConfig(id=str(options.run / "checkpoint")), load_run(options.run).config.task
    examples = task.cls(settings).load("train")[: options.prompts * options.updates]
    rows, parts = [], dict[str, list[float]]()
    for pair in range(options.pairs):
        mine, own = ours(model, examples, options)
        other = theirs(model, examples, options).medians()
        for part, seconds in own.items():
            parts.setdefault(part, []).append(seconds)
        wall, cpu = mine.medians()
        rows.append([pair, 60 / wall, 60 / other[0], other[0] / wall, other[1] / cpu])
    headers = ["pair", "updates a minute", "TRL's", "ratio", "ratio of CPU seconds"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    wall_ratio, cpu_ratio = (statistics.median(row[column] for row in rows) for column in (3, 4))
    print(f"median ratio {wall_ratio:.2f}, of CPU seconds {cpu_ratio:.2f} (target 1.5)\n")
    print(tabulate([[part, statistics.median(values)] for part, values in parts.items()], headers=["part", "seconds"]))


if __name__ == "__main__":
    main()
