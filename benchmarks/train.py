"""Training throughput of `cot` against a plain `transformers.Trainer` loop on the same batches.

Both start from the same weights and run the same optimiser, schedule and precision over the same rows in the same
order. The plain loop gets its batches collated beforehand and saves nothing; ours tokenises and collates as it goes,
counts tokens and operations, keeps exact means, and writes its resume points. Pairs of runs alternate, so that a busy
machine slows both; the median ratio counts. On a CPU that others use, the ratio of CPU seconds (of all threads) is the
steadier one.

    python benchmarks/train.py [--steps 150] [--batch 32] [--pairs 3] [--hidden 128] [--layers 2] [--precision float32]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from latbench import registry
from latbench.config import ModelConfig, TrainConfig
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example
from latbench.training.trainer import train_method


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    model = ModelConfig(hidden_size=options.hidden, num_layers=options.layers, mlp_size=3 * options.hidden)
    config = TrainConfig(batch_size=options.batch, max_steps=options.steps, precision=options.precision)
    synth = registry.get_task_entry("synth")
    examples = synth.cls(synth.config()).load("train")[: options.steps * options.batch]
    rows = []
    for pair in range(options.pairs):
        mine, tokens, batches = ours(model, config, examples)
        other = plain(model, config, batches)
        rows.append([pair, tokens / mine.wall, tokens / other.wall, other.wall / mine.wall, other.cpu / mine.cpu])
    headers = ["pair", "cot tokens/s", "plain Trainer tokens/s", "ratio", "ratio of CPU seconds"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    wall, cpu = (statistics.median(row[column] for row in rows) for column in (3, 4))
    print(f"median ratio {wall:.2f}, of CPU seconds {cpu:.2f} (target 0.9)")


@dataclass(frozen=True)
class Seconds:
    """Elapsed, and spent on a processor by all threads."""

    wall: float
    cpu: float


class Watch:
    """Times a block: `watch.seconds` after it."""

    seconds: Seconds

    def __enter__(self) -> Watch:
        self._start = Seconds(time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = Seconds(time.perf_counter() - self._start.wall, time.process_time() - self._start.cpu)


def ours(model: ModelConfig, config: TrainConfig, examples: list[Example]) -> tuple[Seconds, int, list[dict[str, Any]]]:
    """Seconds and tokens of a `cot` run, and its batches as the plain loop wants them."""
    method, batches = new_method(model), []
    collate = method.batch

    def recorded(*args: Any) -> Any:
        batch = collate(*args)
        batches.append(batch.tokens)
        return batch

    setattr(method, "batch", recorded)  # noqa: B010
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        report = train_method(method, examples, config, folder=Path(folder), seed=0)
    return watch.seconds, report.tokens_seen, [as_hugging_face(tokens) for tokens in batches]


def plain(model: ModelConfig, config: TrainConfig, batches: list[dict[str, Any]]) -> Seconds:
    """Seconds of the plain loop."""
    method = new_method(model)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            per_device_train_batch_size=1,  # an item of the data set is a whole batch
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            warmup_steps=round(config.warmup_ratio * len(batches)),
            weight_decay=config.weight_decay,
            max_grad_norm=config.clip_norm,
            bf16=config.precision == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=config.log_every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        with Watch() as watch:
            trainer = InOrder(
                model=method.backbone.model, args=args, train_dataset=batches, data_collator=lambda items: items[0]
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return watch.seconds


class InOrder(Trainer):
    """The plain Trainer, reading its data in order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)


def new_method(model: ModelConfig) -> Method[Any]:
    """`cot` with fresh weights, the same each time."""
    entry = registry.get_method("cot")
    method: Method[Any] = entry.cls(Backbone.load(model, seed=0), entry.config())
    return method


def as_hugging_face(tokens: Any) -> dict[str, Any]:
    """A batch as causal language models of transformers take it: labels aligned with the ids, not shifted."""
    labels = torch.full_like(tokens.ids, IGNORE_INDEX)
    labels[:, 1:] = tokens.labels[:, :-1]
    return {"input_ids": tokens.ids, "attention_mask": tokens.mask.long(), "labels": labels}


if __name__ == "__main__":
    main()
