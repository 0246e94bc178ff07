"""Decoding speed, side by side with what a user would pick instead, in one run.

    python benchmarks/decode.py [--run runs/<a cot run>] [--batch-size 1 32 256] [--large] [--compiled]

Same lengths: `decode` (ours), transformers' `generate`, and a bare cached loop over the same modules (no bookkeeping at
all: the least that Python can do), each emitting the same number of tokens from the same questions; and the matrix
products of a step alone. Natural lengths, with a trained run: all test questions through refilled slots against
`generate` over batches in file order. Latent step: a rule that mixes the top 10 of the vocabulary, against text; and
the rule of every registered method that has latent steps, with its tiny preset on random weights, kept from stopping.
Times are medians over interleaved repetitions; what counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from stages import LARGE
from tabulate import tabulate
from torch import Tensor
from transformers import DynamicCache

from latbench import registry
from latbench.api import get_task, load_run
from latbench.config import GenerateConfig, ModelConfig, parse
from latbench.decoding.loop import Prompt, decode
from latbench.decoding.rule import Latent, LatentRule, RowState, StepRule
from latbench.decoding.superposition import top_k_mixture
from latbench.model.backbone import Backbone

NUM_TOKENS = 64
REPEATS = 5


class TopTen(LatentRule):
    """Mixes the top 10 of the vocabulary at every step."""

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule."""
        ids, weights = top_k_mixture(logits, 10)
        return Latent(self.backbone.mix(ids, weights), torch.zeros_like(rows.in_answer))


def ours(
    backbone: Backbone,
    ids: Sequence[list[int]],
    rule: StepRule,
    batch_size: int,
    tokens: int,
    latents: int = 0,
    compiled: bool = False,
) -> None:
    """Our loop; prompts are raw unless there are latent steps, so that nothing but the token cap ends a row."""
    prompts = [Prompt(id=str(i), text="", raw=latents == 0) for i in range(len(ids))]
    config = GenerateConfig(batch_size=batch_size, max_new_tokens=tokens, max_latents=latents, compiled=compiled)
    decode(backbone, ids, prompts, rule, config)


def left_padded(ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask for `generate`."""
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    return padded, mask


def generate(backbone: Backbone, ids: Sequence[list[int]], batch_size: int, tokens: int, eos: list[int] | None) -> None:
    """transformers' generate over batches in file order."""
    for start in range(0, len(ids), batch_size):
        padded, mask = left_padded(ids[start : start + batch_size])
        backbone.model.generate(
            padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=eos, pad_token_id=0
        )


@torch.inference_mode()
def bare(backbone: Backbone, ids: Sequence[list[int]], tokens: int) -> None:
    """Model call and argmax, nothing else; unpadded rows of one length."""
    width = min(map(len, ids))
    fed, cache = torch.tensor([row[:width] for row in ids]), DynamicCache()
    for _ in range(tokens):
        out = backbone.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        fed = out.logits[:, -1].argmax(-1, keepdim=True)


@torch.inference_mode()
def products(backbone: Backbone, batch_size: int, tokens: int) -> None:
    """The matrix products of one step, without attention."""
    weights = [m.weight for m in backbone.model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = [torch.randn(batch_size, weight.shape[1], dtype=weight.dtype) for weight in weights]
    for _ in range(tokens):
        for x, weight in zip(inputs, weights, strict=True):
            torch.nn.functional.linear(x, weight)


def medians(jobs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each job, median over interleaved repetitions after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repetition in range(REPEATS + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def same_lengths(backbone: Backbone, batch_size: int, compiled: bool) -> list[object]:
    """One row of the first table: milliseconds per step and ratios."""
    rows = [[2 + (i * 7 + j * 13) % 200 for j in range(40)] for i in range(batch_size)]
    text = StepRule(backbone)
    short = NUM_TOKENS // 4
    backbone.model.generation_config.eos_token_id = None
    jobs: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(backbone, rows, text, batch_size, NUM_TOKENS),
        "generate": lambda: generate(backbone, rows, batch_size, NUM_TOKENS, None),
        "bare": lambda: bare(backbone, rows, NUM_TOKENS),
        "products": lambda: products(backbone, batch_size, NUM_TOKENS),
        "text": lambda: ours(backbone, rows, text, batch_size, NUM_TOKENS + short),
        "latent": lambda: ours(backbone, rows, TopTen(backbone), batch_size, short - 1, NUM_TOKENS),
    }
    if compiled:
        jobs["compiled"] = lambda: ours(backbone, rows, text, batch_size, NUM_TOKENS, compiled=True)
    took = medians(jobs)
    ms = {name: 1000 * value / NUM_TOKENS for name, value in took.items()}
    return [
        backbone.name, batch_size, f"{ms['ours']:.2f}", f"{ms['generate']:.2f}", f"{ms['bare']:.2f}",
        f"{ms['products']:.2f}", f"{ms['generate'] / ms['ours']:.2f}", f"{ms['bare'] / ms['ours']:.2f}",
        f"{took['latent'] / took['text']:.2f}", f"{took['ours'] / took['compiled']:.2f}" if compiled else "",
    ]  # fmt: skip


def endless(rule: LatentRule) -> LatentRule:
    """The rule, thinking until the cap: random weights would stop anywhere."""
    decide = rule.latent

    def latent(hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        return replace(decide(hidden, logits, rows), stop=torch.zeros_like(rows.in_answer))

    setattr(rule, "latent", latent)  # noqa: B010
    return rule


def latent_steps(shape: dict[str, int], sizes: Sequence[int]) -> list[list[object]]:
    """Latent step over text step of every registered method with latent steps, one column per batch size.

    Args:
        shape: of the backbone, where it is not that of the tiny preset.
    """
    rows: list[list[object]] = []
    for name in registry.method_names():
        config = parse({"method": {"name": name}, "start": None, "model": shape})
        backbone = Backbone.load(config.model, seed=0)
        rule = registry.get_method(name).cls(backbone, config.method).eval().rule(config.generate)
        if isinstance(rule, LatentRule):
            ratios = (f"{_latent_over_text(backbone, endless(rule), size):.2f}" for size in sizes)
            rows.append([name, backbone.name, *ratios])
    return rows


def _latent_over_text(backbone: Backbone, rule: LatentRule, size: int) -> float:
    ids = [[2 + (i * 7 + j * 13) % 200 for j in range(40)] for i in range(size)]
    short = NUM_TOKENS // 4
    took = medians(
        {
            "text": lambda: ours(backbone, ids, StepRule(backbone), size, NUM_TOKENS + short),
            "latent": lambda: ours(backbone, ids, rule, size, short - 1, NUM_TOKENS),
        }
    )
    return took["latent"] / took["text"]


def natural_lengths(run: str, num: int) -> list[list[object]]:
    """Answers per second on the test questions of a trained run, ours against `generate`."""
    trained = load_run(run)
    backbone = trained.method.backbone
    task = get_task(trained.config.task_name)
    examples = task.load("test")[:num]
    ids = [backbone.prompt(task.prompt(example)) for example in examples]
    prompts = [Prompt(id=example.id, text="") for example in examples]
    rows: list[list[object]] = []
    for size in (32, 64, 256):
        config = GenerateConfig(batch_size=size, max_new_tokens=NUM_TOKENS)
        jobs: dict[str, Callable[[], object]] = {
            "ours": partial(decode, backbone, ids, prompts, StepRule(backbone), config),
            "generate": partial(generate, backbone, ids, size, NUM_TOKENS, backbone.eos_ids),
        }
        speeds = {name: len(ids) / seconds for name, seconds in medians(jobs).items()}
        rows.append([size, *(f"{s:.0f}" for s in speeds.values()), f"{speeds['ours'] / speeds['generate']:.2f}"])
    return rows


def profile(backbone: Backbone) -> str:
    """Where the time of a step goes, by function."""
    rows = [[2 + (i + j) % 200 for j in range(40)] for i in range(32)]
    profiler = cProfile.Profile()
    profiler.runcall(ours, backbone, rows, StepRule(backbone), 32, NUM_TOKENS)
    stats = pstats.Stats(profiler)
    total = stats.total_tt  # type: ignore[attr-defined]
    lines = []
    for (path, _, name), (_, calls, own, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        if "latbench" in path and cumulative / total > 0.01:
            lines.append((cumulative, [name, calls, f"{100 * own / total:.0f} %", f"{100 * cumulative / total:.0f} %"]))
    ordered = [line for _, line in sorted(lines, key=lambda item: -item[0])]
    return tabulate(ordered, ["function", "calls", "own", "with callees"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a trained cot run, for natural lengths")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--large", action="store_true", help="also a 30 M model")
    parser.add_argument("--compiled", action="store_true", help="also our loop with compiled steps")
    parser.add_argument("--num", type=int, default=1000, help="questions for natural lengths")
    arguments = parser.parse_args()
    shapes = [{}, LARGE] if arguments.large else [{}]
    configs = [replace(ModelConfig(), **shape) for shape in shapes]  # type: ignore[arg-type]
    table = [
        same_lengths(Backbone.load(config), size, arguments.compiled)
        for config in configs
        for size in arguments.batch_size
    ]
    header = [
        "model",
        "batch",
        "ours ms",
        "generate ms",
        "bare ms",
        "products ms",
        "generate/ours",
        "bare/ours",
        "latent/text",
        "ours/compiled",
    ]
    print(f"Same lengths, {NUM_TOKENS} tokens, {torch.get_num_threads()} threads, ms per step")
    print(tabulate(table, header))
    print("\nLatent step over text step, by method and batch size")
    rows = [row for shape in shapes for row in latent_steps(shape, arguments.batch_size)]
    print(tabulate(rows, ["method", "model", *arguments.batch_size]))
    print("\nProfile of our loop, batch 32, tiny model")
    print(profile(Backbone.load(ModelConfig())))
    if arguments.run:
        print("\nNatural lengths, answers per second")
        print(tabulate(natural_lengths(arguments.run, arguments.num), ["batch", "ours", "generate", "ratio"]))


if __name__ == "__main__":
    main()
