"""Reinforcement learning of a tiny random model, right by chance; and runs of it to be killed or launched.

toy_rl.py killed FOLDER     kill forked runs at several moments, resume them, compare with an undisturbed one
toy_rl.py launched FOLDER   train once, under `accelerate launch` or alone (accumulation from TOY_ACCUMULATION)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from latbench.config import GenerateConfig, ModelConfig, RLConfig, RolloutConfig, TrainConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.loop import Generation
from latbench.method import HeldOut
from latbench.model.backbone import Backbone
from latbench.task import Example, Fingerprint, Score, Task, TaskConfig
from latbench.training.cost import TrainReport
from latbench.training.trainer import train_method
from methods.cot import Cot, CotConfig
from tests.training.processes import after_saved_states, at, die, kill_at_each, leave_result

RL = RLConfig(
    steps=12, lr=1e-2, prompts=4, group_size=4, minibatches=2, passes=2, rollout=RolloutConfig(max_new_tokens=6),
    eval_every=5, eval_questions=6, kl=0.01,
)  # fmt: skip
CONFIG = TrainConfig(only=["rl"], rl=RL, save_every=3, log_every=2)


class Parity(Task[TaskConfig]):
    """An answer is right where its number of characters is odd."""

    name = "parity"

    def __init__(self) -> None:
        super().__init__(TaskConfig())
        self.num_scored = 0

    def load(self, split: str) -> list[Example]:
        return examples()

    def fingerprint(self, split: str) -> Fingerprint:
        return Fingerprint(source="parity", sha256="0" * 64, num_examples=0)

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        self.num_scored += len(pairs)
        return [Score(status="correct" if len(text) % 2 else "incorrect", extracted=text) for text, _ in pairs]


class Talker(Cot):
    """Answers at once, so that every token of a random model is one of the answer."""

    name = "talker"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, CotConfig())
        self.before_update: Callable[[], None] = lambda: None
        self.before_answers: Callable[[], None] = lambda: None
        self.asked: list[str] = []

    def prompt_ids(self, question: str, config: GenerateConfig | None = None) -> list[int]:
        return self.backbone.closed_prompt(question)

    def generate(self, prompts: Any, config: GenerateConfig, **options: Any) -> list[Generation]:
        self.before_answers()
        if options.get("actions"):
            self.asked += [prompt.id for prompt in prompts]
        return super().generate(prompts, config, **options)

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        if torch.is_grad_enabled():
            self.before_update()
        return super().action_log_probs(batch)


def talker(*, dtype: Any = "float32", **model: Any) -> Talker:
    """A fresh method; always the same weights."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32}
    return Talker(Backbone.load(ModelConfig(**sizes, dtype=dtype, device="cpu", **model), seed=3))


def examples(num: int = 10) -> list[Example]:
    """Questions of unlike length."""
    return [Example(id=str(i), question=f"n{i} = {'3 + ' * (i % 4)}{i}", steps=(), answer=str(i)) for i in range(num)]


def train(
    folder: Path, method: Talker | None = None, *, config: TrainConfig = CONFIG, resume: bool = False, **changes: Any
) -> TrainReport:
    """Reinforce a talker in a folder; `changes` are of `train.rl`."""
    if changes:
        config = replace(config, rl=with_changes(RL if config.rl is None else config.rl, **changes))
    held_out = HeldOut(task=Parity(), split="validation", examples=examples(8))
    return train_method(method or talker(), examples(), config, folder=folder, seed=5, resume=resume, held_out=held_out)


def with_changes(config: RLConfig, **changes: Any) -> RLConfig:
    """The settings with others; those of the variant are resolved anew where it changes."""
    values = {name: getattr(config, name) for name in vars(config)}
    if "variant" in changes:
        values |= dict.fromkeys(("average", "deviation", "clip_high", "dynamic"))
    return RLConfig(**{**values, **changes})


def killed(folder: Path) -> None:
    """Print `equal` where runs killed at every listed moment end as the undisturbed one does."""
    moments = [
        ("answers", 1), ("answers", 2), ("answers", 4), ("answers", 6), ("update", 1), ("update", 5), ("update", 7),
        ("update", 12), ("save", 1), ("save", 3),
    ]  # fmt: skip
    kill_at_each(moments, folder, fresh=talker, train=train, train_until=_train_until)


def _train_until(folder: Path, where: str, count: int) -> None:
    """Train and die of SIGKILL at the given call: answers of a rollout or of held-out questions, an update, a save."""
    tick = at(count, die)
    method = talker()
    if where == "answers":
        method.before_answers = tick
    elif where == "update":
        method.before_update = tick
    else:
        after_saved_states(tick)
    train(folder, method)


def launched(folder: Path) -> None:
    """Train in float64 and leave each process's weights, questions and report."""
    method = talker(dtype="float64")
    config = replace(CONFIG, accumulation=int(os.environ["TOY_ACCUMULATION"]))
    report = train(folder, method, config=config, dynamic=True, prompts=8)
    leave_result(folder, {"weights": method.state_dict(), "asked": method.asked, "report": asdict(report)})


if __name__ == "__main__":
    {"killed": killed, "launched": launched}[sys.argv[1]](Path(sys.argv[2]))
