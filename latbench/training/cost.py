"""What training costs: counts that a resumed run continues, and a meter of floating-point operations."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from latbench.model.batches import Batch, Tokens


@dataclass(kw_only=True)
class TrainReport:
    """What a stage, or all stages, of a training run cost; over all sessions and processes.

    Args:
        epochs: passes over the examples.
        tokens_seen: tokens of the batches without padding, once per pass over the example.
        supervised_tokens: of them, those with a label.
        flops: executed by matrix products and attention, padding included; see FlopMeter for the formula.
        seconds: wall time up to the last resume point of each killed session, and of the last session.
        peak_memory_bytes: allocated on the GPU, or resident on a CPU, at the main process.
        rollouts: answers drawn in reinforcement learning.
        skipped: examples left out, by reason; over several stages the most in any one.
    """

    optimiser_steps: int = 0
    epochs: float = 0.0
    examples_seen: int = 0
    tokens_seen: int = 0
    supervised_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    rollouts: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def total(cls, reports: Sequence[TrainReport]) -> TrainReport:
        """The costs of consecutive stages together."""
        return cls(
            optimiser_steps=sum(report.optimiser_steps for report in reports),
            epochs=sum(report.epochs for report in reports),
            examples_seen=sum(report.examples_seen for report in reports),
            tokens_seen=sum(report.tokens_seen for report in reports),
            supervised_tokens=sum(report.supervised_tokens for report in reports),
            flops=sum(report.flops for report in reports),
            seconds=sum(report.seconds for report in reports),
            rollouts=sum(report.rollouts for report in reports),
            peak_memory_bytes=max((report.peak_memory_bytes for report in reports), default=0),
            skipped={
                reason: max(report.skipped.get(reason, 0) for report in reports)
                for reason in sorted({reason for report in reports for reason in report.skipped})
            },
        )


def count_tokens(batch: Batch) -> tuple[int, int]:
    """Tokens of a batch without padding, and those of them with a label."""
    values = [getattr(batch, each.name) for each in fields(batch)]
    sequences = [value for value in values if isinstance(value, Tokens)]
    seen = sum(int(tokens.mask.sum()) for tokens in sequences)
    return seen, sum(tokens.num_supervised for tokens in sequences)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on a CUDA device, resident otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


class FlopMeter:
    """Counts floating-point operations (a multiply-add is two) of every forward pass and its backward pass.

    Matrix products: 2 * weights * rows forward, as much again for the gradient of the input where one flows, and for
    the gradient of the weights where they are trained. Full training of a model with N weights in matrix products thus
    costs 6 * N per position; with LoRA the frozen weights cost 4. The LM head counts on the positions it runs on.
    Attention: 4 * layers * heads * head size * queries * keys per row forward, three times that with gradients; all
    keys count, the causal half that is masked included. Norms, softmax, embeddings and their mixing, products outside
    of linear layers, the optimiser, and what a method prepares before a stage (soft labels) are left out; a
    forward pass repeated by gradient checkpointing counts once more.
    """

    def __init__(self, module: nn.Module) -> None:
        self._flops = 0
        self._handles: list[RemovableHandle] = []
        self.watch(module)

    def watch(self, module: nn.Module) -> None:
        """Count the passes of a further model too."""
        for part in module.modules():
            if isinstance(part, nn.Linear | Conv1D):
                self._handles.append(part.register_forward_hook(self._count_product))
            elif isinstance(part, PreTrainedModel) and _is_innermost(part):
                self._handles.append(part.register_forward_pre_hook(self._count_attention, with_kwargs=True))

    def take(self) -> int:
        """Operations since the last call."""
        flops, self._flops = self._flops, 0
        return flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what runs inside."""
        flops = self._flops
        yield
        self._flops = flops

    def close(self) -> None:
        """Stop counting."""
        for handle in self._handles:
            handle.remove()

    def _count_product(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        rows = output.numel() // output.shape[-1]
        passes = 1
        if _counts_backward():
            passes += int(inputs[0].requires_grad) + int(weight.requires_grad)
        self._flops += 2 * weight.numel() * rows * passes

    def _count_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        given = args[0] if given is None else given
        batch, queries = given.shape[:2]
        mask = kwargs.get("attention_mask")
        mask = next(iter(mask.values()), None) if isinstance(mask, dict) else mask
        keys = queries if mask is None else mask.shape[-1]
        config = module.config.get_text_config()  # type: ignore[union-attr, operator]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        passes = 3 if _counts_backward() else 1
        self._flops += (
            4 * config.num_hidden_layers * config.num_attention_heads * size * batch * queries * keys * passes
        )


def _counts_backward() -> bool:
    """Whether a backward pass will follow this forward pass; one repeated by checkpointing has been counted with it."""
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1


def _is_innermost(model: PreTrainedModel) -> bool:
    """The decoder proper, not the language model around it."""
    return not any(isinstance(part, PreTrainedModel) and part is not model for part in model.modules())
