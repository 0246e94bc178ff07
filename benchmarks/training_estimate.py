"""Operations, memory and hours of the papers' set-ups of 1 B and 7 B parameters, from the meter of operations.

    python benchmarks/training_estimate.py [--check]

No weights are needed. Operations of a pass are affine in the number of layers and in the vocabulary, and a line plus a
square in the length: T * (a + b * layers + c * vocabulary) + d * layers * T * T. Four small models of the real
width, on rows of digits of exact lengths, give the four numbers; the real layers, vocabulary and length give the rest.
`--check` compares such a number with what training a small model then counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from latbench import registry
from latbench.config import ModelConfig, RunConfig, parse
from latbench.model.backbone import Backbone
from latbench.model.tiny import tiny_tokenizer
from latbench.task import Example
from latbench.training.estimate import estimate_training

VOCAB, LENGTH = 1024, 64  # of the smallest of the small models
PEAK = {"A100": 312e12, "H100": 989e12}  # bfloat16 operations per second, dense, of the makers' data sheets
UTILISATION = 0.35  # share of it that training reaches; an assumption


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model as its configuration file has it, and the rows it is trained on."""

    kind: type[PretrainedConfig]
    fields: dict[str, int]
    layers: int
    vocab: int
    tied: bool
    rows: int
    question: int  # mean tokens
    chain: int


# Sizes: config.json of each model. Rows: gsm8k_aug 385,620; openr1_math as its paper counts them is not at hand, 40,000
# rows are an assumption. Tokens are assumptions too: 60 + 30 of GSM8K with equations as steps, 100 + 2,000 of chains
# below 4k.
SIZES = {
    "llama1b-gsm8k": Size(
        kind=LlamaConfig,
        fields={"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
        layers=16, vocab=128256, tied=True, rows=385_620, question=60, chain=30,
    ),
    "qwen7b-math": Size(
        kind=Qwen2Config,
        fields={"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
        layers=28, vocab=152064, tied=False, rows=40_000, question=100, chain=2000,
    ),
}  # fmt: skip


def backbone(size: Size, config: ModelConfig, layers: int, vocab: int) -> Backbone:
    """A model of the real width with few layers and a small vocabulary, and fresh weights."""
    shape = size.kind(
        **size.fields, num_hidden_layers=layers, vocab_size=vocab, tie_word_embeddings=size.tied,
        max_position_embeddings=8192,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16, attn_implementation="sdpa")
    return Backbone(model, tiny_tokenizer(), config, name="estimate")


def rows(size: Size, length: int) -> list[Example]:
    """Rows of exact lengths in the proportion of question and chain; a digit is a token."""
    question = max(1, round(length * size.question / (size.question + size.chain)))
    return [
        Example(id=f"e{n}", question="1" * question, steps=("2" * (length - question),), answer="3") for n in (0, 1)
    ]


def per_pass(config: RunConfig, size: Size) -> dict[str, tuple[float, float]]:
    """Of each stage: its passes as a share of the rows, and the operations of one pass over a row."""
    found: dict[tuple[int, int, int], dict[str, tuple[float, float]]] = {}
    for layers, vocab, length in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)):
        entry = registry.get_method(config.method_name)
        method = entry.cls(backbone(size, config.model, layers, vocab * VOCAB), config.method)
        stages = estimate_training(method, rows(size, length * LENGTH), config.train)
        found[layers, vocab, length] = {s.name: (s.passes / 2, (s.flops or 0) / s.passes) for s in stages}
        del method
        gc.collect()
    total = size.question + size.chain
    made = {}
    for name, (share, one) in found[1, 1, 1].items():
        layer, words, longer = (found[key][name][1] for key in ((2, 1, 1), (1, 2, 1), (1, 1, 2)))
        d = (longer - 2 * one) / (2 * LENGTH**2)
        c = (words - one) / (LENGTH * VOCAB)
        b = (layer - one - d * LENGTH**2) / LENGTH
        a = (one - d * LENGTH**2) / LENGTH - b - c * VOCAB
        made[name] = share, total * (a + b * size.layers + c * size.vocab) + d * size.layers * total**2
    return made


def memory(config: RunConfig, size: Size) -> tuple[float, float]:
    """Bytes of weights, and of what is kept of each trained number: the weight, its gradient and two moments."""
    with torch.device("meta"):
        shape = size.kind(**size.fields, num_hidden_layers=size.layers, vocab_size=size.vocab,
                          tie_word_embeddings=size.tied)  # fmt: skip
        model = AutoModelForCausalLM.from_config(shape)
    weights = sum(parameter.numel() for parameter in model.parameters())
    lora = config.model.lora
    assert lora is not None
    adapted = [m for name, m in model.named_modules() if name.rpartition(".")[2] in (lora.targets or ())]
    trained = sum(lora.rank * (m.in_features + m.out_features) for m in adapted)
    return weights * 4.0, trained * 16.0


def estimate(preset: str) -> dict[str, Any]:
    """All figures of a set-up, the run that it starts from included."""
    size, config = SIZES[preset], parse({"method": "latent_sft"}, preset=preset)
    parts: list[RunConfig] = [*([config.start] if config.start else []), config]
    flops, passes = 0.0, 0.0
    for part in parts:
        for share, cost in per_pass(part, size).values():
            passes += share * size.rows
            flops += share * size.rows * cost
    weights, trained = memory(config, size)
    return {
        "preset": preset, "passes": passes, "flops": flops, "weights_bytes": weights, "trained_bytes": trained,
        "gpu_hours": {gpu: flops / (peak * UTILISATION) / 3600 for gpu, peak in PEAK.items()},
    }  # fmt: skip


def check() -> dict[str, float]:
    """What was estimated of a small run, and what its training counted."""
    from latbench.runs.train import train, training_examples

    settings = ["train.max_steps=8", "train.batch_size=8", "task.num_train=64", "train.precision=float32",
                "model.lora={rank: 4, alpha: 8}", "model.device=cpu"]  # fmt: skip
    config = parse({"method": "cot"}, overrides=settings)
    examples, _ = training_examples(registry.get_task_entry("synth").cls(config.task), config)
    method = registry.get_method("cot").cls(Backbone.load(config.model, seed=0), config.method)
    (stage,) = estimate_training(method, examples, config.train)
    with tempfile.TemporaryDirectory() as folder:
        costs = train(config, runs_dir=Path(folder)).report["costs"]
    assert stage.flops is not None
    return {
        "estimated_flops": stage.flops, "counted_flops": costs["flops"], "ratio": stage.flops / costs["flops"],
        "estimated_passes": stage.passes, "counted_passes": costs["examples_seen"],
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare an estimate with a small run")
    parser.add_argument("--preset", action="append", choices=SIZES, help="all by default")
    chosen = parser.parse_args()
    if chosen.check:
        print(json.dumps(check(), indent=1))
    else:
        for name in chosen.preset or SIZES:
            print(json.dumps(estimate(name), indent=1), flush=True)
