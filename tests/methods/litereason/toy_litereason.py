"""LiteReason of a tiny random model through its stages, to be killed anywhere.

toy_litereason.py killed FOLDER     kill forked runs in every stage, resume them, compare with an undisturbed one
toy_litereason.py launched FOLDER   train once, under `accelerate launch` or alone (accumulation from TOY_ACCUMULATION)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from torch import Tensor
from torch.optim import AdamW

from latbench.config import GenerateConfig, ModelConfig, RLConfig, RolloutConfig, StageOverrides, TrainConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.loop import Generation
from latbench.decoding.sampling import Sampling
from latbench.method import HeldOut, Losses, Stage
from latbench.model.backbone import Backbone
from latbench.training.cost import TrainReport
from latbench.training.trainer import train_method
from methods.litereason import LiteReason, LiteReasonConfig, traces
from methods.litereason.tagged import TaggedBatch
from methods.litereason.tags import Tags
from tests.training.processes import after_saved_states, at, die, kill_at_each, leave_result
from tests.training.rl.toy_rl import Parity, examples

WRITTEN = ("ab. Cd\n[2]e</think>", "[1]\nfour</think>", "no tag at all</think>")
RL = RLConfig(
    steps=10, lr=1e-2, prompts=2, group_size=4, rollout=RolloutConfig(max_new_tokens=24), eval_every=4, eval_questions=4
)
CONFIG = TrainConfig(
    rl=RL, stages={"projector": StageOverrides(steps=6)}, batch_size=2, save_every=2, log_every=1, lr=1e-2
)
SETTINGS: dict[str, Any] = {
    "traces": "own", "samples": 2, "sample_tokens": 24, "sample_temperature": 1.0, "sample_top_p": 1.0,
    "sample_top_k": 0, "spaced": False, "refresh_every": 3, "refresh_share": 0.5, "refresh_lr": 1e-2,
}  # fmt: skip
traces.CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class Begun(Sampling):
    """Reasoning as it is written in WRITTEN, by the row's key; the answer is the model's."""

    scripts: tuple[tuple[int, ...], ...]

    def choose(self, logits: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
        token = super().choose(logits, keys, steps)
        for row, (key, step) in enumerate(zip(keys.tolist(), steps.tolist(), strict=True)):
            script = self.scripts[key % len(self.scripts)]
            if step < len(script):
                token[row] = script[step]
        return token


class Talker(LiteReason):
    """Tells when something begins, and writes tags."""

    name = "talker"

    def __init__(self, backbone: Backbone, config: LiteReasonConfig) -> None:
        super().__init__(backbone, config)
        self.tick: Callable[[str], None] = lambda what: None

    def generate(self, prompts: Any, config: GenerateConfig, **options: Any) -> list[Generation]:
        plain = options.get("rule") is not None and not options.get("actions")
        self.tick("traces" if plain else "answers")
        rule = options.pop("rule", None) or self.rule(config)
        tags: Tags = self.tags
        scripts = [tags.encode(text) if plain else tags.expanded(tags.encode(text), 0).ids for text in WRITTEN]
        rule.sampling = Begun(scripts=tuple(map(tuple, scripts)), temperature=config.temperature)
        return super().generate(prompts, config, rule=rule, **options)

    def loss(self, batch: TaggedBatch, stage: Stage) -> Losses:
        self.tick("update")
        return super().loss(batch, stage)

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        self.tick("rl update")
        return super().action_log_probs(batch)


def talker(*, dtype: Any = "float32", **settings: Any) -> Talker:
    """A fresh method; always the same weights."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32}
    backbone = Backbone.load(ModelConfig(**sizes, dtype=dtype, device="cpu"), seed=3)
    return Talker(backbone, LiteReasonConfig(**{**SETTINGS, **settings}))


def train(
    folder: Path, method: Talker, *, resume: bool = False, config: TrainConfig = CONFIG, parts: Path | None = None
) -> TrainReport:
    """Both stages in a folder."""
    held_out = HeldOut(task=Parity(), split="validation", examples=examples(4))
    return train_method(
        method, examples(), config, folder=folder, seed=5, resume=resume, held_out=held_out, parts=parts
    )


def stopping(method: Talker, where: str, count: int, stop: Callable[[], None]) -> Talker:
    """The method, that stops when something begins for the given time."""
    counted = at(count, stop)

    def tick(what: str) -> None:
        if what == where:
            counted()

    method.tick = tick
    learn = AdamW.step

    def step(self: Any, *given: Any) -> Any:
        tick("refresh")
        return learn(self, *given)

    AdamW.step = step  # type: ignore[method-assign,assignment]
    after_saved_states(lambda: tick("save"))
    return method


def killed(folder: Path) -> None:
    """Print `equal` where runs killed at every listed moment end as the undisturbed one does."""
    moments = [
        ("traces", 1), ("traces", 3), ("update", 2), ("update", 6), ("answers", 2), ("answers", 6), ("rl update", 3),
        ("rl update", 9), ("refresh", 1), ("refresh", 4), ("save", 2), ("save", 6),
    ]  # fmt: skip
    kill_at_each(moments, folder, fresh=talker, train=train, train_until=_train_until)


def _train_until(folder: Path, where: str, count: int) -> None:
    train(folder, stopping(talker(), where, count, die))


def launched(folder: Path) -> None:
    """Train both stages in float64 and leave each process's weights and report."""
    method = talker(dtype="float64")
    config = replace(CONFIG, accumulation=int(os.environ["TOY_ACCUMULATION"]))
    report = train(folder, method, config=config)
    leave_result(folder, {"weights": method.state_dict(), "report": asdict(report)})


if __name__ == "__main__":
    {"killed": killed, "launched": launched}[sys.argv[1]](Path(sys.argv[2]))
