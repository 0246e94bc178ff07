"""One stage of a method on `transformers.Trainer`: exact accumulation, whole resume points, a log that survives.

The whole stage is one pass of the Trainer over a stream of micro-batches, so that resuming inside it is an offset into
that stream and passes over the data need not be whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from latbench.method import Losses, Method, Stage
from latbench.model.batches import Batch
from latbench.training.cost import FlopMeter, TrainReport, count_tokens, peak_memory_bytes
from latbench.training.resume import (
    CHECKPOINT,
    STATE,
    WEIGHTS,
    check_whole,
    cut_log,
    hashes,
    load_weights,
    resume_points,
    step_of,
)
from latbench.training.sharded import ask_for_whole_tensors
from latbench.training.stage_plan import StagePlan
from latbench.training.window import LossWindow
from latbench.util import heap
from latbench.util.progress import Bar

LOG = "log.jsonl"
RELEASE_EVERY = 16  # optimiser steps: what holes in the heap can take up by then is little, and faulting it in is rare
_SUMMARY = ("train_loss", "train_runtime")  # of the Trainer's last log, which says nothing that is not in the report


class StageModule(nn.Module):
    """A method at one stage, as the Trainer sees it: `forward(batch)`, so that DDP and FSDP hooks fire.

    The Trainer would write into `config` of a method itself, taking it for that of a Hugging Face model.
    """

    # `compute_loss` divides by the items of the whole step, so the Trainer must not divide by the micro-batches again;
    # that of transformers 5.0 knows no other way of saying so
    accepts_loss_kwargs = True

    def __init__(self, method: Method[Any], stage: Stage) -> None:
        super().__init__()
        self.method = method
        self.stage = stage
        self._no_split_modules = getattr(method.backbone.model, "_no_split_modules", None)  # what FSDP wraps

    def forward(self, batch: Any) -> Losses:
        """Loss terms of one micro-batch."""
        losses: Losses = self.method(batch, self.stage)
        return losses


class MicroBatches(Dataset[Batch]):
    """The stage's micro-batches of this process, in order of use; collated when read.

    Args:
        method: whose batches they are.
        plan: of the stage.
        process: number of this one.
    """

    def __init__(self, method: Method[Any], plan: StagePlan, *, process: int) -> None:
        self._method, self._plan, self._process = method, plan, process
        self.num_read = 0  # examples, since the trainer last looked

    def __len__(self) -> int:
        return self._plan.steps * self._plan.parts_per_process

    def __getitem__(self, index: int) -> Batch:
        plan, order = self._plan, self._plan.order
        self._method.step, part = divmod(index, order.parts_per_process)
        epoch, step = divmod(self._method.step, order.steps_per_epoch)
        self._method.epoch = plan.first_epoch + epoch
        rows = order.part(self._method.epoch, step, part, self._process)
        self.num_read += len(rows)
        batch: Batch = self._method.batch([plan.examples[row] for row in rows], plan.stage)
        return batch


class StageTrainer(Trainer):
    """`transformers.Trainer` over one stage.

    Args:
        module: the method at this stage.
        args: the Trainer's own settings.
        batches: the micro-batches of this process; None: a subclass makes them.
        plan: of the stage.
        kept: names of the method's tensors that resume points hold: those which training can change.
        auxiliary_lr: of the helper models; None: that of `args`.
        moments: file of the optimiser states to begin with; None: fresh ones.
    """

    def __init__(
        self,
        module: StageModule,
        args: TrainingArguments,
        batches: MicroBatches | None = None,
        *,
        plan: StagePlan,
        kept: frozenset[str],
        auxiliary_lr: float | None = None,
        moments: Path | None = None,
    ) -> None:
        super().__init__(model=module, args=args, callbacks=[_Watch(self)])
        ask_for_whole_tensors(self.accelerator)
        self.remove_callback(PrinterCallback)
        self.module = module
        self.batches = batches
        self.window = LossWindow()
        self.report = TrainReport(skipped=plan.skipped)  # counts so far
        self.interrupted = False  # set by the signal handler: stop at the next whole step
        self.bar: Bar | None = None  # moved by each step, with the last logged loss
        self._plan = plan
        self._kept = kept
        self._auxiliary_lr = auxiliary_lr
        self._moments = moments
        self._meter = FlopMeter(module)
        self._items: dict[str, int] = {}
        self._folder = Path(str(args.output_dir))
        self._beside: Path | None = None
        self._started = time.monotonic()

    # data

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The stream of micro-batches; already this process's own, so Accelerate does not shard it again."""
        assert self.batches is not None
        return DataLoader(self.batches, batch_size=1, shuffle=False, collate_fn=_only)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[Sequence[Batch], dict[str, int]]:
        """The micro-batches of one optimiser step, and its items by loss term over all processes."""
        assert self.batches is not None
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        num_read, self.batches.num_read = self.batches.num_read, 0
        return batches, self.counted(batches, num_read, device)

    def counted(self, batches: Sequence[Batch], num_examples: int, device: torch.device) -> dict[str, int]:
        """Add the micro-batches of one optimiser step to the report; its items by loss term over all processes."""
        names = sorted(batches[0].num_items)
        counts = [sum(batch.num_items[name] for batch in batches) for name in names]
        tokens = [count_tokens(batch) for batch in batches]
        counts += [sum(seen for seen, _ in tokens), sum(supervised for _, supervised in tokens), num_examples]
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=device), "sum").tolist()
        *items, seen, supervised, examples = counts
        self.report.examples_seen += examples
        self.report.tokens_seen += seen
        self.report.supervised_tokens += supervised
        self._items = dict(zip(names, items, strict=True))
        return self._items

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return inputs.to(self.args.device)

    def create_optimizer(self, *given: Any) -> torch.optim.Optimizer:
        """The Trainer's, with a rate of their own for helper models, and with the moments of the stage before where it
        goes on with them; rates are this stage's."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*given)
        if self._auxiliary_lr is not None:
            helpers = set(self.module.method.auxiliary.parameters())
            for group in list(optimizer.param_groups):
                theirs = [parameter for parameter in group["params"] if parameter in helpers]
                group["params"] = [parameter for parameter in group["params"] if parameter not in helpers]
                optimizer.add_param_group({**group, "params": theirs, "lr": self._auxiliary_lr})
        if self._moments is not None:
            states = torch.load(self._moments, map_location="cpu", weights_only=True)
            optimizer.load_state_dict({**states, "param_groups": optimizer.state_dict()["param_groups"]})
        return optimizer

    # loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Mapping[str, int] | None = None,
    ) -> Tensor:
        """This micro-batch's share of the step's objective, times the processes, over which DDP averages gradients."""
        assert num_items_in_batch is not None
        losses = Losses(model(inputs))  # FSDP makes a plain dict of them where it casts outputs
        counted = {name: term.num_items for name, term in losses.items()}
        if counted != inputs.num_items:
            raise ValueError(
                f"method {self.module.method.name!r}, stage {self.module.stage.name!r}: loss returns terms of "
                f"{counted} items, but batch.num_items is {inputs.num_items}; name and count the same in both"
            )
        objective = losses.objective(num_items_in_batch)
        self.window.add(losses, objective)
        share: Tensor = objective * self.args.world_size
        return share

    def floating_point_ops(self, inputs: Batch) -> int:
        """Of the micro-batch just done, forward and backward."""
        return self._meter.take()

    # log

    def step_done(self) -> None:
        """Book-keeping of a whole optimiser step."""
        self.window.add_step(self._items)
        if self.state.global_step % RELEASE_EVERY == 0:
            heap.release()
        if self.bar is not None:
            self.bar(1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replace the Trainer's running loss by exact means per term; append them to the stage's log.

        Raises: ValueError: the loss is not finite.
        """
        self.state.epoch = self._plan.first_epoch + self.state.global_step / self._plan.steps_per_epoch
        if "loss" in logs:
            self.window.merge(self.accelerator)
            loss, terms = self.window.means()
            if self.is_world_process_zero():
                if not torch.isfinite(torch.tensor(loss)):
                    raise ValueError(
                        f"the loss became {loss} by step {self.state.global_step} of stage {self.module.stage.name!r}; "
                        "lower train.lr, set train.clip_norm, or use train.precision=float32"
                    )
                logs |= {"loss": loss, **terms}
                if self.bar is not None:
                    self.bar.note(f"loss {loss:.4g}")
            self.window = LossWindow()
        if self.is_world_process_zero() and not any(name in logs for name in _SUMMARY):
            row = {"step": self.state.global_step, "epoch": self.state.epoch, **logs}
            with (self._folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        super().log(logs, start_time)

    def log_rows(self) -> list[dict[str, Any]]:
        """The rows of the stage's log."""
        return [json.loads(line) for line in (self._folder / LOG).read_text(encoding="utf-8").splitlines()]

    # resume points

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._beside or self._folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write a resume point beside, rename it into place, and remove the one before."""
        name = f"{CHECKPOINT}{self.state.global_step}"
        self.window.merge(self.accelerator)
        self._beside = self._folder / "unfinished"
        if self.is_world_process_zero():
            shutil.rmtree(self._beside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # the others have written their random states
            if self.is_world_process_zero():
                self._write_state(self._beside / name)
                state = {
                    "fingerprint": self._plan.fingerprint,
                    "window": self.window.state(),
                    "report": asdict(self.current_report()),
                    "files": hashes(self._beside / name),
                }
                (self._beside / name / STATE).write_text(json.dumps(state), encoding="utf-8")
                shutil.rmtree(self._folder / name, ignore_errors=True)
                (self._beside / name).replace(self._folder / name)
                _remove(path for path in resume_points(self._folder) if path.name != name)
                shutil.rmtree(self._beside, ignore_errors=True)
        finally:
            self._beside = None
        self.accelerator.wait_for_everyone()

    def _write_state(self, folder: Path) -> None:
        """Write what a resume point holds beside the Trainer's own files; nothing here."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The tensors that training can change, tied ones once; no pickled arguments beside them."""
        if self.args.should_save:
            folder = Path(str(output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            given = state_dict or self.module.state_dict()
            tensors = {name: given[f"method.{name}"].detach().cpu().contiguous() for name in sorted(self._kept)}
            safetensors.torch.save_file(tensors, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights, counts and loss sums of a resume point; the Trainer restores optimiser, schedule and random state.

        Raises: ValueError: it is damaged, or belongs to another set-up.
        """
        folder = Path(resume_from_checkpoint)
        check_whole(folder)
        if self.is_fsdp_enabled:  # sharded files of Accelerate
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.module.method, folder, self._kept)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, value in self._plan.fingerprint.items():
            if state["fingerprint"].get(name) != value:
                raise ValueError(
                    f"{folder} was trained with {name} {state['fingerprint'].get(name)}, now it is {value}; "
                    "resume with the settings and data of the first session, or train into another folder"
                )
        self.report = TrainReport(**state["report"])
        self.window.load(state["window"], device=self.args.device, main=self.is_world_process_zero())
        if self.is_world_process_zero():
            cut_log(self._folder / LOG, step_of(folder))

    def current_report(self) -> TrainReport:
        """Costs so far, those of earlier sessions included."""
        steps = self.state.global_step
        return replace(
            self.report,
            optimiser_steps=steps,
            epochs=steps / self._plan.steps_per_epoch,
            flops=self.state.total_flos,
            seconds=self.report.seconds + time.monotonic() - self._started,
            peak_memory_bytes=max(self.report.peak_memory_bytes, peak_memory_bytes(self.args.device)),
        )

    def finish(self, point: Path) -> None:
        """Called once the stage is complete, with its last resume point, before that is marked; nothing to do here."""

    def close(self) -> None:
        """Remove the hooks."""
        self._meter.close()


class _Watch(TrainerCallback):
    """Follows the steps: counts, the last log row, and a wish to stop."""

    def __init__(self, trainer: StageTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.step_done()
        control.should_log |= state.global_step >= state.max_steps
        if self._trainer.interrupted:
            control.should_save = control.should_training_stop = True


def _remove(folders: Iterable[Path]) -> None:
    for folder in list(folders):
        shutil.rmtree(folder, ignore_errors=True)


def _only(batches: list[Batch]) -> Batch:
    return batches[0]
