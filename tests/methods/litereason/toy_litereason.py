"""LiteReason of a tiny random model through its stages, to be killed anywhere.

toy_litereason.py FOLDER     kill forked runs in every stage, resume them, compare with an undisturbed one
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(__file__).resolve().parents[2] / "training" / "rl"))

from torch import Tensor
from toy_rl import Parity, examples

from latbench.config import GenerateConfig, ModelConfig, RLConfig, RolloutConfig, StageOverrides, TrainConfig
from latbench.decoding.loop import Generation
from latbench.decoding.sampling import Sampling
from latbench.method import HeldOut, Losses
from latbench.model.backbone import Backbone
from latbench.model.batches import Batch
from latbench.training.cost import TrainReport
from latbench.training.stage_trainer import StageTrainer
from latbench.training.trainer import train_method
from methods.litereason import LiteReason, LiteReasonConfig, refresh, traces
from methods.litereason.tags import Tags

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
        sampling = {"temperature": config.temperature}
        rule.sampling = Begun(scripts=tuple(map(tuple, scripts)), **sampling)
        return super().generate(prompts, config, rule=rule, **options)

    def loss(self, batch: Batch, stage: Any) -> Losses:
        self.tick("update")
        return super().loss(batch, stage)

    def action_log_probs(self, batch: Batch) -> Any:
        self.tick("rl update")
        return super().action_log_probs(batch)


def talker(**settings: Any) -> Talker:
    """A fresh method; always the same weights."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32}
    backbone = Backbone.load(ModelConfig(**sizes, device="cpu"), seed=3)
    return Talker(backbone, LiteReasonConfig(**{**SETTINGS, **settings}))


def train(
    folder: Path, method: Talker, *, resume: bool = False, config: TrainConfig = CONFIG, parts: Path | None = None
) -> TrainReport:
    """Both stages in a folder."""
    held_out = HeldOut(task=Parity(), split="validation", examples=examples(4))
    return train_method(
        method, examples(), config, folder=folder, seed=5, resume=resume, held_out=held_out, parts=parts
    )


def outcome(method: Talker, folder: Path, report: TrainReport) -> dict[str, Any]:
    """All that must be equal bit by bit: weights, log, counts, traces."""
    files = [*folder.glob("stages/*/log.jsonl"), *folder.glob("stages/*/*traces*")]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in method.state_dict().items()},
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)},
        "counts": asdict(replace(report, seconds=0, peak_memory_bytes=0)),
    }


def stopping(method: Talker, where: str, count: int, stop: Callable[[], None]) -> Talker:
    """The method, that stops when something begins for the given time."""
    left = [count]

    def tick(what: str) -> None:
        left[0] -= what == where
        if left[0] == 0:
            left[0] = -1
            stop()

    method.tick = tick
    learn = refresh.AdamW.step

    def step(self: Any, *given: Any) -> Any:
        tick("refresh")
        return learn(self, *given)

    refresh.AdamW.step = step  # type: ignore[method-assign]
    save = StageTrainer._save_rng_state
    StageTrainer._save_rng_state = lambda self, folder: (save(self, folder), tick("save"))[0]  # type: ignore[method-assign, func-returns-value]
    return method


def killed(folder: Path) -> None:
    """Print `equal` where runs killed at every listed moment end as the undisturbed one does."""
    method = talker()
    undisturbed = outcome(method, folder / "undisturbed", train(folder / "undisturbed", method))
    moments = [
        ("traces", 1), ("traces", 3), ("update", 2), ("update", 6), ("answers", 2), ("answers", 6), ("rl update", 3),
        ("rl update", 9), ("refresh", 1), ("refresh", 4), ("save", 2), ("save", 6),
    ]  # fmt: skip
    for number, (where, count) in enumerate(moments):
        here = folder / str(number)
        child = os.fork()
        if child == 0:
            train(here, stopping(talker(), where, count, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{where} {count}: ended before it was killed"
        assert os.WTERMSIG(status) == signal.SIGKILL
        method = talker()
        resumed = outcome(method, here, train(here, method, resume=True))
        for part, expected in undisturbed.items():
            assert resumed[part] == expected, f"{where} {count}: {part} differ from those of the undisturbed run"
    print("equal")


if __name__ == "__main__":
    killed(Path(sys.argv[1]))
