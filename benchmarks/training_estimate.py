"""Operations, memory and hours of the papers' set-ups of 1 B and 7 B parameters, counted on models of a few layers.

    python benchmarks/training_estimate.py [--preset llama1b-gsm8k] [--preset qwen7b-math]

No weights are needed. What a pass over a row costs (operations, bytes of weights, of what is trained, of what the
backward pass needs) is a polynomial: (1, layers, vocabulary) times (1, length), and (1, layers) times the square of the
length. Eight small models of the real width, on rows of digits of exact lengths, give its eight numbers; the real
layers, vocabulary and length give the rest. `training_check.py` compares such numbers with a run.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config
from transformers.initialization import no_init_weights

from latbench import registry
from latbench.config import RunConfig, parse
from latbench.method import Method, Stage
from latbench.model.backbone import Backbone
from latbench.model.tiny import tiny_tokenizer
from latbench.task import Example
from latbench.training.estimate import estimate_training

VOCAB = 1024  # of the smallest of the small models
PEAK = {"A100": 312e12, "H100": 989e12}  # bfloat16 operations per second, dense, of the makers' data sheets
UTILISATION = 0.35  # share of it that training reaches; an assumption
FLOAT32 = 4  # bytes: of a weight, its gradient, and each of two moments
FRESH = 1 << 23  # numbers from which on a tensor is memory that the system has just cleared
POINTS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 2), (1, 2, 2), (1, 1, 3), (2, 1, 3))


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model as its configuration file has it, and the rows it is trained on."""

    kind: type[PretrainedConfig]
    """Class of its configuration."""
    fields: Mapping[str, Any]
    """Of the configuration: the widths."""
    layers: int
    """Of the model."""
    vocab: int
    """Rows of its embedding."""
    tied: bool
    """Whether the LM head is the embedding."""
    question: float
    """Mean tokens of a question."""
    chain: float
    """Mean tokens of a chain."""
    unit: tuple[int, int]
    """Tokens of question and chain of the shortest rows that are measured, in about that proportion; a chain that a
    method cuts into groups is a multiple of a group."""


# Sizes: config.json of each model. Tokens are assumptions: 60 + 30 of GSM8K with equations as steps, 125 + 2,000 of
# chains below 4k.
SIZES = {
    "llama1b-gsm8k": Size(
        kind=LlamaConfig,
        fields={"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
        layers=16, vocab=128256, tied=True, question=60, chain=30, unit=(32, 16),
    ),
    "qwen7b-math": Size(
        kind=Qwen2Config,
        fields={"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
        layers=28, vocab=152064, tied=False, question=125, chain=2000, unit=(1, 16),
    ),
}  # fmt: skip
# Rows of the training split: 385,620 of gsm8k_aug; those of openr1_math as its paper counts them are not at hand, so
# that 40,000 are an assumption.
ROWS = {"llama1b-gsm8k": 385_620, "qwen7b-math": 40_000}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one row costs in a stage."""

    flops: float
    """Operations of a pass, as `FlopMeter` counts them."""
    weights: float
    """Bytes of all parameters, helper models included."""
    trained: float
    """Bytes of the parameters that get a gradient."""
    kept: float
    """Bytes that the backward pass needs, parameters aside."""
    positions: float
    """Positions that run through a model's layers."""
    again: float
    """Operations of the matrix products in the layers, forward: what gradient checkpointing repeats."""


class Watch:
    """Notes what each call of a method's loss costs in memory, without changing it.

    Attributes:
        seen: by the name of a stage, of each call: bytes as in `Cost`, and positions.
    """

    def __init__(self, method: Method[Any]) -> None:
        self.seen: dict[str, list[dict[str, float]]] = {}
        self._method, self._storages, self._positions, self._again = method, dict[int, int](), 0, 0
        self._hooks: Any = None
        self._handles: list[RemovableHandle] = [
            method.register_forward_pre_hook(self._begin),
            method.register_forward_hook(self._end),
        ]

    def _begin(self, _method: Any, _given: Any) -> None:
        self._storages.clear()
        self._positions = self._again = 0
        self._known = {p.untyped_storage().data_ptr() for p in self._method.parameters()}
        models = [part for part in self._method.modules() if isinstance(part, PreTrainedModel)]
        innermost = [m for m in models if not any(isinstance(p, PreTrainedModel) and p is not m for p in m.modules())]
        self._inner = [model.register_forward_pre_hook(self._count, with_kwargs=True) for model in innermost]
        layers = [layer for model in innermost for layer in model.layers.modules() if isinstance(layer, nn.Linear)]
        self._inner += [layer.register_forward_hook(self._count_product) for layer in layers]
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, it would keep alive the graph that keeps it

    def _count(self, _model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, kwargs.get("inputs_embeds"), kwargs.get("input_ids")]
        batch, seq = next(tensor for tensor in given if tensor is not None).shape[:2]
        self._positions += batch * seq

    def _count_product(self, layer: nn.Linear, _inputs: Any, output: torch.Tensor) -> None:
        self._again += 2 * layer.weight.numel() * (output.numel() // output.shape[-1])

    def _end(self, method: Any, given: tuple[Any, ...], _losses: Any) -> None:
        self._hooks.__exit__(None, None, None)
        for handle in self._inner:
            handle.remove()
        stage: Stage = given[1]
        parameters = list(method.parameters())
        self.seen.setdefault(stage.name, []).append(
            {
                "weights": sum(p.numel() * p.element_size() for p in parameters),
                "trained": sum(p.numel() * p.element_size() for p in parameters if p.requires_grad),
                "kept": sum(self._storages.values()),
                "positions": self._positions,
                "again": self._again,
            }
        )

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()


def small_backbone(size: Size, config: RunConfig, layers: int, vocab: int) -> Backbone:
    """A model of the real width with few layers and a small vocabulary; no cost depends on what its weights are."""
    shape = size.kind(
        **size.fields, num_hidden_layers=layers, vocab_size=vocab * VOCAB, tie_word_embeddings=size.tied,
        max_position_embeddings=8192,
    )  # fmt: skip
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, attn_implementation="sdpa")
    model.tie_weights()  # a part of the initialisation that is left out
    for parameter in model.parameters():
        if parameter.numel() < FRESH:
            torch.nn.init.constant_(parameter, 0.01)
    return Backbone(model, tiny_tokenizer(), replace(config.model, gradient_checkpointing=False), name="estimate")


def row(size: Size, length: int) -> Example:
    """A row of exact length; a digit is a token."""
    question, chain = size.unit
    return Example(id="e", question="1" * question * length, steps=("2" * chain * length,), answer="3")


def measured(config: RunConfig, size: Size, point: tuple[int, int, int]) -> dict[str, tuple[float, Cost]]:
    """Of each stage of a small model: its passes as a share of the rows, and what a row costs.

    Args:
        config: of the run; its number format, attention and adapters are those of the small model.
        size: whose widths it has.
        point: its layers, its vocabulary in units of `VOCAB`, the length of the row in units of `size.unit`.
    """
    layers, vocab, length = point
    entry = registry.get_method(config.method_name)
    method: Method[Any] = entry.cls(small_backbone(size, config, layers, vocab), config.method)
    watch = Watch(method)
    half = config.train.precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=True):
        stages = estimate_training(method, [row(size, length)], config.train)
    watch.close()
    found: dict[str, tuple[float, Cost]] = {}
    for stage in stages:
        assert stage.flops is not None
        found[stage.name] = stage.passes, Cost(flops=stage.flops / stage.passes, **watch.seen[stage.name][-1])
    return found


def monomials(layers: float, vocab: float, length: float) -> list[float]:
    """The terms of the polynomial."""
    return [1, layers, vocab, length, layers * length, vocab * length, length**2, layers * length**2]


class Estimate:
    """What a row costs in each stage of a run, for any number of layers, vocabulary and length."""

    def __init__(self, config: RunConfig, size: Size) -> None:
        self._size = size
        found = []
        for point in POINTS:
            found.append(measured(config, size, point))
            gc.collect()
        self.passes = {name: share for name, (share, _) in found[0].items()}
        terms = np.array([monomials(*point) for point in POINTS], dtype=float)
        self._numbers: dict[str, dict[str, NDArray[np.float64]]] = {
            name: {
                what: np.linalg.solve(terms, np.array([getattr(at[name][1], what) for at in found], dtype=float))
                for what in Cost.__dataclass_fields__
            }
            for name in self.passes
        }

    def at(self, stage: str, *, layers: float | None = None, length: float | None = None) -> Cost:
        """What a row costs.

        Args:
            stage: of the run.
            layers: of the model; None: the real number.
            length: of the row in tokens of question and chain; None: the mean of the real ones.
        """
        size = self._size
        length = size.question + size.chain if length is None else length
        terms = monomials(size.layers if layers is None else layers, size.vocab / VOCAB, length / sum(size.unit))
        return Cost(**{what: float(numbers @ terms) for what, numbers in self._numbers[stage].items()})

    def kept(self, stage: str, rows: int, *, length: float | None = None) -> float:
        """Bytes that the backward pass over a micro-batch needs: what does not grow with the rows once, the rest for
        each row.

        Args:
            stage: of the run.
            rows: of the micro-batch.
            length: as in `at`.
        """
        fixed = self.at(stage, length=0).kept
        return fixed + rows * (self.at(stage, length=length).kept - fixed)

    def kept_checkpointed(self, stage: str, rows: int) -> float:
        """The same with gradient checkpointing: the inputs of all layers, and what a single layer keeps.

        Args:
            stage: of the run.
            rows: of the micro-batch.
        """
        layers = self._size.layers
        fixed, one = (self.at(stage, layers=1, length=length).kept for length in (0, None))
        inputs = self.at(stage).positions * int(self._size.fields["hidden_size"]) * FLOAT32 * layers
        return fixed + rows * (one - fixed + inputs)


def estimate(preset: str) -> dict[str, Any]:
    """All figures of a set-up, the run that it starts from included; memory is that of its largest stage."""
    size, config = SIZES[preset], parse({"method": "latent_sft"}, preset=preset)
    parts: list[RunConfig] = [*([config.start] if config.start else []), config]
    flops = again = passes = 0.0
    memory: list[dict[str, Any]] = []
    for part in parts:
        found = Estimate(part, size)
        for name, share in found.passes.items():
            cost, rows = found.at(name), part.train.batch_size
            passes += share * ROWS[preset]
            flops += share * ROWS[preset] * cost.flops
            again += share * ROWS[preset] * cost.again
            memory.append(
                {
                    "stage": f"{part.method_name} {name}",
                    "rows": rows,
                    "weights": cost.weights,
                    "gradients": cost.trained,
                    "moments": 2 * cost.trained,
                    "activations": found.kept(name, rows),
                    "activations_checkpointed": found.kept_checkpointed(name, rows),
                }
            )
    executed = flops + (again if config.model.gradient_checkpointing else 0)
    hours = {gpu: executed / (peak * UTILISATION) / 3600 for gpu, peak in PEAK.items()}
    return {"preset": preset, "passes": passes, "flops": flops, "flops_checkpointed": flops + again,
            "gpu_hours": hours, "memory_bytes": memory}  # fmt: skip


def main() -> None:
    """Print the figures of each set-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=SIZES, help="all by default")
    for name in parser.parse_args().preset or SIZES:
        print(json.dumps(estimate(name), indent=1), flush=True)


if __name__ == "__main__":
    main()
