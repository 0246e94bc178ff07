"""The model's forward pass compiled for decoding steps of one shape; on CUDA it is captured as a graph.

A step of a small batch does little work in many kernels, so that it waits for Python; a graph launches them all at
once. On a CPU fewer and larger kernels help a tiny model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from latbench.model.attention import allow_recompiling


def forward_compiled(model: nn.Module, device: torch.device, **inputs: Any) -> Any:
    """What `model(**inputs)` returns, to float noise; the first call with other shapes compiles.

    Args:
        device: of the model; on CUDA the result is overwritten by the next call.
    Raises: ValueError: this model cannot be compiled here.
    """
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()
    try:
        return _compiled(device.type)(model, inputs)
    except TorchDynamoException as error:
        reason = next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
        raise ValueError(
            f"generate.compiled is true, and a step of this model cannot be compiled here ({reason}); set it to false"
        ) from error


@cache
def _compiled(device: str) -> Callable[[nn.Module, dict[str, Any]], Any]:
    allow_recompiling()
    mode = "reduce-overhead" if device == "cuda" else None
    return torch.compile(_forward, fullgraph=True, dynamic=False, mode=mode)


def _forward(model: nn.Module, inputs: dict[str, Any]) -> Any:
    return model(**inputs)
