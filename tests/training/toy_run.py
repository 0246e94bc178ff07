"""A small method with dropout, two stages and two loss terms of unlike counts; and runs of it to be killed or launched.

toy_run.py killed FOLDER     kill forked runs at several moments, resume them, compare with an undisturbed one
toy_run.py launched FOLDER   train once, under `accelerate launch` or alone (batch size from TOY_BATCH)
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
from torch import nn

from latbench.config import GenerateConfig, ModelConfig, TrainConfig
from latbench.decoding.rule import StepRule
from latbench.method import Losses, LossTerm, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import SequenceBatch
from latbench.task import Example
from latbench.training import stage_trainer
from latbench.training.cost import TrainReport
from latbench.training.losses import token_cross_entropy
from latbench.training.trainer import train_method
from tests.training.processes import after_saved_states, at, die, kill_at_each, leave_result

CONFIG = TrainConfig(epochs=4, batch_size=3, accumulation=2, save_every=2, log_every=3, lr=1e-2)


class Toy(Method[MethodConfig]):
    """Next-token loss, and a head that reads the sequence's length from mean embeddings under dropout."""

    name = "toy"

    def __init__(self, backbone: Backbone, config: MethodConfig | None = None, *, dropout: float = 0.2) -> None:
        super().__init__(backbone, config or MethodConfig())
        self.dropout = nn.Dropout(dropout)
        torch.manual_seed(1)
        weight = next(backbone.parameters())
        self.heads["length"] = nn.Linear(backbone.hidden_size, 1).to(weight)
        self.before_loss: Callable[[], None] = lambda: None
        self.seen: list[tuple[int, str]] = []
        self.dtypes: set[torch.dtype] = set()

    def stages(self) -> list[Stage]:
        return [Stage(name="all", share=0.5), Stage(name="head", share=0.5, trainable=("heads.",))]

    def batch(self, examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        self.seen += [(self.epoch, example.id) for example in examples]
        batch = self.backbone.batch_sequences(examples, supervise="steps")
        return SequenceBatch(num_items={**batch.num_items, "length": len(examples)}, tokens=batch.tokens)

    def loss(self, batch: SequenceBatch, stage: Stage) -> Losses:
        self.before_loss()
        logits, labels = self.backbone.logits_at_labels(batch.tokens)
        self.dtypes.add(logits.dtype)
        mask = batch.tokens.mask[..., None]
        mean = (self.dropout(self.backbone.embed(batch.tokens.ids)) * mask).sum(1) / mask.sum(1)
        error = self.heads["length"](mean)[:, 0].double() - batch.tokens.lengths / 10
        length = LossTerm(total=error.square().sum(), num_items=len(error), weight=0.5)
        return Losses(ce=token_cross_entropy(logits, labels), length=length)

    def rule(self, config: GenerateConfig) -> StepRule:
        return StepRule(self.backbone)

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        return "marked" if example.meta.get("skip") else super().skip_reason(example, stage)


def toy(dropout: float = 0.2, *, dtype: Any = "float32") -> Toy:
    """A fresh method; always the same weights."""
    model = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32, dtype=dtype, device="cpu")
    return Toy(Backbone.load(model, seed=3), dropout=dropout)


def toy_examples(num: int = 20) -> list[Example]:
    """Sums of unlike length."""
    return [
        Example(
            id=str(i),
            question=f"n{i % 7} = {'3 + ' * (i % 4)}{i}",
            steps=(f"<<{i}+1={i + 1}>>",) * (i % 3),
            answer=str(i + 1),
        )
        for i in range(num)
    ]


def train(
    folder: Path, method: Toy | None = None, *, config: TrainConfig = CONFIG, resume: bool = False
) -> TrainReport:
    """Train a toy in a folder."""
    return train_method(method or toy(), toy_examples(), config, folder=folder, seed=5, resume=resume)


def killed(folder: Path) -> None:
    """Print `equal` where runs killed at every listed moment end as the undisturbed one does."""
    moments = [("loss", 5), ("loss", 18), ("save", 2), ("rename", 3), ("stage", 1), ("loss", 30)]
    kill_at_each(moments, folder, fresh=toy, train=train, train_until=_train_until)


def _train_until(folder: Path, where: str, count: int) -> None:
    """Train and die of SIGKILL at the given call of the loss, of a save, of a rename, or of a stage's end."""
    tick = at(count, die)
    method = toy()
    if where == "loss":
        method.before_loss = tick
    elif where == "save":
        after_saved_states(tick)
    elif where == "rename":  # two resume points lie there
        remove = stage_trainer._remove
        stage_trainer._remove = lambda folders: (tick(), remove(folders))[1]
    else:
        finish = train_method.__globals__["_finish"]
        train_method.__globals__["_finish"] = lambda *args, **options: (tick(), finish(*args, **options))[1]
    train(folder, method)


def launched(folder: Path) -> None:
    """Train in float64 and leave each process's weights, rows and report.

    Environment: TOY_BATCH batch size, TOY_DROPOUT, TOY_EXIT the call of the loss at which all processes leave.
    """
    method = toy(dropout=float(os.environ.get("TOY_DROPOUT", "0")), dtype="float64")
    method.before_loss = at(int(os.environ.get("TOY_EXIT", "0")), lambda: os._exit(0))
    config = replace(CONFIG, batch_size=int(os.environ["TOY_BATCH"]))
    report = train(folder, method, config=config, resume=(folder / "stages").exists())
    leave_result(folder, {"weights": method.state_dict(), "seen": method.seen, "report": asdict(report)})


if __name__ == "__main__":
    {"killed": killed, "launched": launched}[sys.argv[1]](Path(sys.argv[2]))
