"""Cost of one optimiser step of methods' stages against a `cot` step on the same examples, and its memory.

Rounds alternate between the stages, so that a busy machine slows all of them; the median counts. CPU seconds are the
steadier figure on a machine that others use. Batches are collated within the measured time. Of a method with more than
four stages the first, the middle and the last are measured.

    python benchmarks/stages.py [--method latent_sft coconut ...] [--set train.batch_size=64 ...] [--rounds 5]
    python benchmarks/stages.py --memory     peak of one stage-1 step: r = 2, T = 512, batch 8, 30 M parameters
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from latbench import registry
from latbench.config import parse
from latbench.method import Method, Stage
from latbench.model.backbone import Backbone
from latbench.task import Example
from latbench.training.trainer import set_trainable

CHAIN, BATCH = 512, 8  # of the memory figure
LARGE = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "mlp_size": 1536}  # 27 M weights in the layers


def main() -> None:
    """Print the table, or the memory figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["latent_sft"], choices=registry.method_names())
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        memory(options.method[0], options.settings)
    else:
        steps(options)


def built(name: str, settings: Sequence[str], model: dict[str, int] | None = None) -> tuple[Method[Any], Any]:
    """A method on the embedded backbone with its tiny preset, ready to train, and its configuration."""
    given = {"model": model} if model else {}
    config = parse({"method": {"name": name}, "start": None, **given}, overrides=settings)
    entry = registry.get_method(name)
    method: Method[Any] = entry.cls(Backbone.load(config.model, seed=0), config.method)
    method.precision = config.train.precision
    method.build_auxiliary()
    return method, config


def steps(options: argparse.Namespace) -> None:
    """Median seconds per step of every stage, and ratios to `cot`."""
    shared = [setting for setting in options.settings if not setting.startswith("method.")]
    reference, config = built("cot", shared)
    methods = [built(name, options.settings)[0] for name in options.method]
    task = registry.get_task_entry("synth").cls(config.task)
    num = options.steps * config.train.batch_size
    examples = [replace(example, question=task.prompt(example)) for example in task.load("train")[:num]]
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(method, stage) for method in [reference, *methods] for stage in some(method.stages())]
        for owner, stage in pairs:
            place = Path(folder) / owner.name / stage.name
            place.mkdir(parents=True)
            owner.prepare(stage, examples, place)
        for _ in range(options.rounds):
            for owner, stage in pairs:
                rows.setdefault(f"{owner.name} {stage.name}", []).append(timed(owner, stage, examples, config.train))
    (base_wall, base_cpu), *_ = [[statistics.median(part) for part in zip(*row, strict=True)] for row in rows.values()]
    table = []
    for name, row in rows.items():
        wall, cpu = (statistics.median(part) for part in zip(*row, strict=True))
        table.append([name, 1000 * wall, 1000 * cpu, wall / base_wall, cpu / base_cpu])
    print(tabulate(table, headers=["stage", "ms per step", "CPU ms", "ratio", "ratio of CPU"], floatfmt=".2f"))


def some(stages: list[Stage]) -> list[Stage]:
    """All of up to four stages, else the first, the middle and the last."""
    return stages if len(stages) <= 4 else [stages[0], stages[len(stages) // 2], stages[-1]]


def timed(method: Method[Any], stage: Stage, examples: Sequence[Example], config: Any) -> tuple[float, float]:
    """Wall and CPU seconds per optimiser step over the examples, after one step to warm up."""
    set_trainable(method, stage)
    method.train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)
    batches = [examples[start : start + config.batch_size] for start in range(0, len(examples), config.batch_size)]
    for index, rows in enumerate([batches[0], *batches]):
        if index == 1:
            wall, cpu = time.perf_counter(), time.process_time()
        step(method, stage, rows, optimiser)
    return (time.perf_counter() - wall) / len(batches), (time.process_time() - cpu) / len(batches)


def step(method: Method[Any], stage: Stage, rows: Sequence[Example], optimiser: torch.optim.Optimizer) -> None:
    """One optimiser step."""
    batch = method.batch(rows, stage).to(method.backbone.device)
    with method.autocast():
        objective = method(batch, stage).objective()
    objective.backward()
    optimiser.step()
    optimiser.zero_grad()


def memory(name: str, settings: Sequence[str]) -> None:
    """Peak memory of the first stage's step above what model and optimiser hold; resident memory on a CPU."""
    method, _ = built(name, [*settings, "method.tokens_per_latent=2"], LARGE)
    chain = " ".join("7" * (CHAIN // 2))  # digits and blanks are tokens of their own
    example = Example(id="0", question="n0=3+4; n0?", steps=(chain,), answer="7")
    num = method.backbone.num_step_tokens(example)
    stage = method.stages()[0]
    set_trainable(method, stage)
    method.train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)
    short = replace(example, steps=("7",))
    step(method, stage, [short], optimiser)  # optimiser states exist
    before = peak_bytes()
    step(method, stage, [replace(example, id=str(row)) for row in range(BATCH)], optimiser)
    weights = sum(parameter.numel() for parameter in method.backbone.parameters())
    print(
        f"{name} {stage.name}: {weights / 1e6:.1f} M parameters, T = {num}, batch {BATCH}: "
        f"peak {peak_bytes() / 2**20:.0f} MiB, "
        f"{(peak_bytes() - before) / 2**20:.0f} MiB more than with a batch of one short chain"
    )


def peak_bytes() -> int:
    """Peak memory so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
