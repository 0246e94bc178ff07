"""The stage `rl` on `transformers.Trainer`: rollouts in place of batches, held-out questions, figures for the log."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from latbench import registry
from latbench.config import RLConfig
from latbench.decoding.action_batch import ActionBatch
from latbench.decoding.loop import Prompt
from latbench.method import DIAGNOSTICS, HeldOut, Losses, Method, Stage
from latbench.model.batches import Batch
from latbench.training.resume import WEIGHTS, replace_weights
from latbench.training.rl.rollouts import RolloutSource, quiet
from latbench.training.rl.surrogate import policy_losses
from latbench.training.stage_trainer import StageModule, StageTrainer
from latbench.util.files import write_whole

ROLLOUTS = "rollouts.pt"  # of a resume point: tensors and plain values, loaded as weights only
BEST = "best"  # folder of the best weights by held-out accuracy


class PolicyModule(StageModule):
    """A method as the Trainer sees it in reinforcement learning: `forward(batch)` is the policy's loss."""

    def __init__(self, method: Method[Any], stage: Stage, config: RLConfig) -> None:
        super().__init__(method, stage)
        self.rl = config  # not `config`: the Trainer would write into that

    def forward(self, batch: ActionBatch) -> Losses:
        """Loss terms and figures of one micro-batch."""
        quiet(self.method)
        return policy_losses(self.method.action_log_probs(batch), batch, self.rl)


class Updates(Dataset[int]):
    """Numbers of the micro-batches. The Trainer reads ahead of the weights, so what they stand for is made later."""

    def __init__(self, num: int) -> None:
        self._num = num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> int:
        return index


@dataclass
class HeldOutCurve:
    """Greedy results on held-out questions.

    Args:
        points: [update, accuracy, mean chain length] in order.
        best: update of the highest accuracy, the first of equals; None: nothing was evaluated.
    """

    points: list[list[float]] = field(default_factory=list)

    def add(self, step: int, accuracy: float, chain_length: float) -> bool:
        """Note a result, once for each update. Returns: whether it is above all before."""
        before = [point[1] for point in self.points if point[0] < step]
        self.points = [point for point in self.points if point[0] < step] + [[step, accuracy, chain_length]]
        return accuracy > max(before, default=-1.0)

    @property
    def best(self) -> list[float] | None:
        """The point of the highest accuracy, the first of equals."""
        return max(self.points, key=lambda point: point[1], default=None)


class RolloutTrainer(StageTrainer):
    """`StageTrainer` whose batches come from rollouts.

    Args:
        source: of this process's micro-batches.
        held_out: questions to answer greedily every `train.rl.eval_every` updates.
    """

    def __init__(self, *given: Any, source: RolloutSource, held_out: HeldOut, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "train.rl draws answers with whole weights at every process, which FSDP and DeepSpeed divide; "
                "launch it with plain data parallelism (accelerate launch --multi_gpu)"
            )
        self.source = source
        if source.reference is not None:
            self._meter.watch(source.reference)
        self.curve = HeldOutCurve()
        self._held_out = held_out

    # data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Numbers of micro-batches; see Updates."""
        num = self.args.max_steps * self.args.gradient_accumulation_steps
        return DataLoader(Updates(num), batch_size=1, collate_fn=lambda numbers: numbers[0])

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[Sequence[Batch], dict[str, int]]:
        """The micro-batches of one update, drawn now if the update begins a rollout."""
        for _ in range(num_batches):
            next(epoch_iterator)
        step, config = self.state.global_step, self.source.config
        if step == 0 and config.eval_every:
            self._evaluate(0)
        drawn = self.source.state.drawn
        batches = self.source.batches(step)
        self.report.rollouts += (self.source.state.drawn - drawn) * config.group_size
        self.window.add_figures(self.source.figures)
        self.source.figures = {}
        num_read, self.source.num_read = self.source.num_read, 0
        return batches, self.counted(batches, num_read, device)

    def create_optimizer(self, *given: Any) -> torch.optim.Optimizer:
        """The stage's optimiser; an update whose gradient is not finite changes nothing."""
        optimizer = super().create_optimizer(*given)
        optimizer.register_step_pre_hook(_drop_what_is_not_finite)
        return optimizer

    # held-out questions

    def step_done(self) -> None:
        """Book-keeping of a whole update."""
        super().step_done()
        every, step = self.source.config.eval_every, self.state.global_step
        if every and (step % every == 0 or step == self.args.max_steps):
            self._evaluate(step)

    @torch.no_grad()
    def _evaluate(self, step: int) -> None:
        """Answer held-out questions greedily, each process its share; no part of the training's costs."""
        method, config = self.module.method, self.source.config
        examples = self._held_out.examples[: config.eval_questions]
        own = examples[self.args.process_index :: self.args.world_size]
        prompts = [Prompt(id=example.id, text=example.question) for example in own]
        with self._meter.paused():
            answers = method.generate(prompts, config.rollout.greedy(method.decoding), seed=method.seed)
        pairs = [(answer.text, example) for answer, example in zip(answers, own, strict=True)]
        scores = self._held_out.task.score_many(pairs)
        correct = sum(score.status == "correct" for score in scores)
        length = sum(answer.num_latents + (answer.num_reasoning_tokens or 0) for answer in answers)
        sums = torch.tensor([correct, length], dtype=torch.float64, device=self.args.device)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        accuracy, chain_length = (sums / len(examples)).tolist()
        if self.curve.add(step, accuracy, chain_length) and config.keep_best and self.is_world_process_zero():
            self._save(str(self._folder / f"{BEST}.tmp"))
            shutil.rmtree(self._folder / BEST, ignore_errors=True)
            (self._folder / f"{BEST}.tmp").replace(self._folder / BEST)
        wanted = self.control.should_log  # which a row of its own would take as done
        self.log({"held_out/accuracy": accuracy, "held_out/chain_length": chain_length})
        self.control.should_log = wanted

    # resume points

    def _write_state(self, folder: Path) -> None:
        """What a resume point holds beside the Trainer's own files."""
        super()._write_state(folder)
        in_use = self.state.global_step % self.source.config.updates != 0
        torch.save({"curve": self.curve.points, **self.source.saved(in_use=in_use)}, folder / ROLLOUTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Also where the rollouts are.

        Raises: ValueError: it belongs to another set-up.
        """
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = torch.load(Path(resume_from_checkpoint) / ROLLOUTS, weights_only=True)
        self.curve.points = saved.pop("curve")
        self.source.load(saved)

    # end

    def finish(self, point: Path) -> None:
        """Write what the stage has to report and, where it is asked for, put the best weights into its last resume
        point."""
        best = self.curve.best
        if self.source.config.keep_best and best is not None:
            self.module.method.load_state_dict(_best_weights(self._folder), strict=False)
        if not self.is_world_process_zero():
            return
        if self.source.config.keep_best and best is not None:
            replace_weights(point, self._folder / BEST / WEIGHTS)
        figures: dict[str, Any] = {"rl": {"held_out": self.curve.points, "seconds": dict(self.source.state.seconds)}}
        if best is not None:
            figures["rl"] |= {
                "split": self._held_out.split,
                "best_accuracy": best[1],
                "best_step": best[0],
                "last_accuracy": self.curve.points[-1][1],
            }
        last = [row for row in self.log_rows() if "rl/reward" in row][-1:]
        figures["rl"]["last"] = {name: value for row in last for name, value in row.items() if "/" in name}
        for row in last:  # numbers, so that tables show them beside the greedy accuracy
            figures |= {"sampled_reward": row["rl/reward"], "mixed_groups": row["rl/mixed_groups"]}
        write_whole(self._folder / DIAGNOSTICS, json.dumps(figures, indent=1) + "\n")


def _best_weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / BEST / WEIGHTS)
    return tensors


def _drop_what_is_not_finite(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Before a step: without gradients, parameters and moments stay as they are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters or torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in parameters])):
        return
    for parameter in parameters:
        parameter.grad = None


def check_method(method: Method[Any], config: RLConfig) -> None:
    """Raises: ValueError: reinforcement learning is asked of a method that cannot do it, or not with these settings."""
    if not method.stages():
        raise ValueError(
            f"train.rl is set, but method {method.name!r} needs no training, so there is nothing to reinforce; "
            "set train.rl=null"
        )
    if not learns_from_rollouts(type(method)):
        others = [name for name in registry.method_names() if learns_from_rollouts(registry.get_method(name).cls)]
        raise ValueError(
            f"train.rl is set, but method {method.name!r} has no density of its latent steps to learn from; "
            f"set train.rl=null, or use one of {', '.join(others)}"
        )
    if config.learn_from != "all" and not method.scores_latents:
        raise ValueError(
            f"train.rl.learn_from is {config.learn_from!r}, but in method {method.name!r} text alone is learnt from; "
            "set it to all"
        )
    method.check_rl(config)


def learns_from_rollouts(method: type[Method[Any]]) -> bool:
    """Whether a method's class has log-probabilities of its actions."""
    return method.action_log_probs is not Method.action_log_probs


def frozen_copy(method: Method[Any]) -> Method[Any]:
    """The method as it is now, for the divergence from it; helper models and data stay with the original."""
    shared = [method.backbone.tokenizer, method.backbone.layout, method.held_out, method.auxiliary, method.config]
    reference = copy.deepcopy(method, {id(part): part for part in shared})
    reference.auxiliary = nn.ModuleDict()
    return reference.requires_grad_(False)
