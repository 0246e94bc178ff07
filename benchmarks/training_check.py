"""What `training_estimate.py` predicts of a run, and what the run then takes: operations and memory, part by part.

    python benchmarks/training_check.py [--model HuggingFaceTB/SmolLM2-135M-Instruct] [--steps 3] [--batch 4] [--lora]

A pretrained model is trained for a few steps of `cot` on worded problems, once. Predicted from small models of its
width; counted in the run: operations by latbench's meter and by torch's counter, which looks at the kernels that run;
weights, gradients and moments as they lie in memory; what autograd keeps for the backward pass over the widest
micro-batch, whose padded length is predicted with; and the growth of the process, sampled, from before the model was
loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch
from tabulate import tabulate
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from training_estimate import Estimate, Size, Watch
from transformers import AutoConfig

from latbench import registry
from latbench.config import TINY, RunConfig, parse
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.runs.train import training_examples
from latbench.training.trainer import train_method

WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
LORA = "model.lora={rank: 16, alpha: 32, targets: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}"


def config_of(options: argparse.Namespace, model: str) -> RunConfig:
    """A few steps of `cot` on worded problems, all of whose rows are used once.

    Args:
        options: of the command.
        model: that is trained.
    """
    settings = [
        f"model.id={model}", *(["model.chat_template=false"] if model != TINY else []), "model.device=cpu",
        f"train.precision={options.precision}", f"train.batch_size={options.batch}", "train.epochs=1",
        f"train.num_examples={options.steps * options.batch}", "task.min_ops=2", "task.max_ops=3",
        *([LORA] if options.lora else []),
    ]  # fmt: skip
    return parse({"method": "cot", "task": {"name": "synth_words"}}, overrides=settings)


class Peak:
    """The most resident memory of this process while a block runs, sampled, and what it was before."""

    def __init__(self) -> None:
        self.before = self.most = psutil.Process().memory_info().rss
        self._ended = threading.Event()

    def _look(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.005):
            self.most = max(self.most, process.memory_info().rss)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Look for the time of a block."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        yield
        self._ended.set()
        thread.join()


def trained(config: RunConfig, examples: list[Any]) -> tuple[dict[str, float], Method[Any]]:
    """Train, and what it took."""
    peak, taken = Peak(), dict[str, float]()

    def before_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        taken["gradients"] = sum(p.grad.numel() * p.grad.element_size() for p in parameters if p.grad is not None)

    def after_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        tensors = [value for state in optimizer.state.values() for value in state.values()]
        taken["moments"] = sum(value.numel() * value.element_size() for value in tensors if value.dim())

    hooks = [register_optimizer_step_pre_hook(before_step), register_optimizer_step_post_hook(after_step)]
    with peak.sampled():
        method: Method[Any] = registry.get_method("cot").cls(Backbone.load(config.model, seed=0), config.method)
        watch = Watch(method)
        with tempfile.TemporaryDirectory() as folder, FlopCounterMode(display=False) as counter:
            report = train_method(method, examples, config.train, folder=Path(folder), seed=0)
    for hook in hooks:
        hook.remove()
    watch.close()
    (calls,) = watch.seen.values()
    largest = max(calls, key=lambda call: call["kept"])
    taken |= {
        "weights": largest["weights"],
        "activations": largest["kept"],
        "process": peak.most - peak.before,
        "flops": report.flops,
        "flops_torch": counter.get_total_flops(),
        "passes": report.examples_seen,
        "positions": sum(call["positions"] for call in calls) / report.examples_seen,
        "tokens": report.tokens_seen / report.examples_seen,
        "largest_positions": largest["positions"],
        "seconds": report.seconds,
    }
    return taken, method


def size_of(config: RunConfig, method: Method[Any], examples: list[Any]) -> Size:
    """The model as its configuration says it, and the mean lengths of the rows under its tokenizer."""
    shape = AutoConfig.from_pretrained(config.model.id)
    questions = [len(method.backbone.tokenizer(example.question)["input_ids"]) for example in examples]
    return Size(
        kind=type(shape),
        fields={name: getattr(shape, name) for name in WIDTHS if getattr(shape, name, None)},
        layers=shape.num_hidden_layers,
        vocab=method.backbone.model.get_input_embeddings().weight.shape[0],
        tied=shape.tie_word_embeddings,
        question=fmean(questions),
        chain=fmean(method.backbone.num_step_tokens(example) for example in examples),
        unit=(16, 16),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lora", action="store_true", help="train adapters of rank 16")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    config = config_of(options, options.model)
    examples, _ = training_examples(registry.get_task_entry("synth_words").cls(config.task), config)
    trained(config_of(options, TINY), examples)  # loads all libraries
    taken, method = trained(config, examples)
    size = size_of(config, method, examples)
    del method
    found = Estimate(config, size)
    (stage,) = found.passes
    cost = found.at(stage)
    added = found.at(stage, length=0).positions  # markers, answer and EOS
    widest = taken["largest_positions"] / options.batch - added
    predicted = {
        "flops": cost.flops * taken["passes"],
        "flops_torch": cost.flops * taken["passes"],
        "weights": cost.weights,
        "gradients": cost.trained,
        "moments": 2 * cost.trained,
        "activations": found.kept(stage, options.batch, length=widest),
    }
    predicted["process"] = sum(predicted[part] for part in ("weights", "gradients", "moments", "activations"))
    names = {
        "flops": "TFLOP, latbench's meter", "flops_torch": "TFLOP, torch's counter", "weights": "MB of weights",
        "gradients": "MB of gradients", "moments": "MB of moments", "activations": "MB kept for the backward pass",
        "process": "MB of the process",
    }  # fmt: skip
    rows = []
    for what, name in names.items():
        unit = 1e12 if "flops" in what else 1e6
        rows.append([name, predicted[what] / unit, taken[what] / unit, predicted[what] / taken[what]])
    print(tabulate(rows, ["", "predicted", "measured", "ratio"], floatfmt=".3f"))
    about = ("passes", "tokens", "positions", "largest_positions", "seconds")
    print(json.dumps({key: taken[key] for key in about} | {"question": size.question, "chain": size.chain}))


if __name__ == "__main__":
    main()
