"""FlexAttention in blocks against dense SDPA masks: time and peak memory of Latent-SFT's decoder on a GPU.

One pass of a Llama under the supervision mask, forward and then backward, over rows of the same length; the mask is
built anew in each pass, as in training. Passes of the two kinds alternate after a first one that compiles; medians
count. Memory is the peak above what is allocated before the pass.

    python benchmarks/masks.py [--tokens 2048] [--batch 8] [--passes 10] [--hidden 1024] [--layers 8] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from latbench.config import ModelConfig
from latbench.model.backbone import Backbone
from latbench.model.layout import Pieces
from methods.latent_sft.masks import SupervisionMask
from methods.latent_sft.sequences import RoleTokens, decoder_tokens

R = 4  # tokens per latent
PREFIX, ANSWER = 64, 16  # tokens of the question and of the answer, marker and EOS included
MIB = 1 << 20


def main() -> None:
    """Run the passes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark compares GPU kernels and found no CUDA device; run it on a machine with one")
    model = ModelConfig(
        hidden_size=options.hidden,
        num_layers=options.layers,
        num_heads=options.hidden // 64,
        mlp_size=3 * options.hidden,
        dtype=options.dtype,
        device="cuda",
    )
    backbone = Backbone.load(model)
    tokens = decoder_batch(options.batch, options.tokens).to(backbone.device)
    costs: dict[bool, list[PassCost]] = {False: [], True: []}
    for _ in range(1 + options.passes):
        for flex, passes in costs.items():
            backbone.flex = flex
            passes.append(one_pass(backbone, tokens))
    headers = ["masks", "forward ms", "forward MiB", "backward ms", "backward MiB"]
    rows = [["blocks" if flex else "dense", *medians(passes[1:])] for flex, passes in costs.items()]
    print(f"{options.batch} rows of {tokens.ids.shape[1]} tokens on {torch.cuda.get_device_name()}")
    print(tabulate(rows, headers=headers, floatfmt=".1f"))


@dataclass(frozen=True)
class Cost:
    """Milliseconds, and MiB at the peak above the start of the pass."""

    milliseconds: float
    mebibytes: float


@dataclass(frozen=True)
class PassCost:
    """Of the two halves of one pass."""

    forward: Cost
    backward: Cost


def decoder_batch(batch: int, tokens: int) -> RoleTokens:
    """Rows of about `tokens` tokens: a chain of T tokens has ceil(T / R) latents beside it, and no first segment."""
    chain = (tokens - PREFIX - ANSWER + R) * R // (R + 1)
    piece = Pieces(prompt=(5,) * PREFIX, steps=(6,) * chain, close=(7,), answer=(8,) * (ANSWER - 2), eos=1)
    return decoder_tokens([piece] * batch, R)


def one_pass(backbone: Backbone, tokens: RoleTokens) -> PassCost:
    """Cost of the mask and the forward pass, and of the backward pass."""
    backbone.zero_grad()
    base = torch.cuda.memory_allocated()
    hidden: list[Tensor] = []
    embeds = backbone.embed(tokens.ids)
    forward = cost(lambda: hidden.append(backbone.states(embeds, tokens.positions, SupervisionMask(tokens))), base)
    return PassCost(forward, cost(lambda: hidden[0].float().square().mean().backward(), base))


def cost(work: Callable[[], None], base: int) -> Cost:
    """Of work on the GPU, its end awaited; `base` bytes were allocated before the pass."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return Cost(1000 * (time.perf_counter() - start), (torch.cuda.max_memory_allocated() - base) / MIB)


def medians(passes: list[PassCost]) -> list[float]:
    """Milliseconds and MiB forward, then backward."""
    halves = [[one.forward for one in passes], [one.backward for one in passes]]
    return [
        statistics.median(getattr(half, name) for half in half_costs)
        for half_costs in halves
        for name in ("milliseconds", "mebibytes")
    ]


if __name__ == "__main__":
    main()
