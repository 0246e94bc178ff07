"""Shared by all tests: offline, one thread, tiny random models of several architectures."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import subprocess
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from latbench.config import ModelConfig
from latbench.model.backbone import Backbone
from latbench.model.tiny import tiny_tokenizer
from latbench.task import Example
from tests.architectures import ARCHITECTURES, architecture

pytest_plugins = ["tests.made_evaluations", "tests.made_runs"]

CHAINS = [  # of 3, 1, 4 and 2 steps
    Example(
        id=f"e{number}",
        question=f"n{number} = {number} + {number % 3}; n0 = ?",
        steps=tuple(f"<<{i}+{number}={i + number}>>" for i in range(number)),
        answer=str(7 * number),
    )
    for number in (3, 1, 4, 2)
]


@cache
def _weights(name: str, vocab_size: int, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(architecture(name, vocab_size))
    with torch.no_grad():  # the default initialisation is too flat to choose tokens with any variety
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.to(dtype).eval()


def make_backbone(name: str = "llama", *, dtype: torch.dtype = torch.float64, **config: Any) -> Backbone:
    """A random backbone over the tiny tokenizer; float64, so that equal computations agree to rounding."""
    torch.manual_seed(7)
    tokenizer = tiny_tokenizer()
    source = _weights(name, len(tokenizer), dtype)
    attention = config.get("attention", "sdpa")
    model = AutoModelForCausalLM.from_config(architecture(name, len(tokenizer)), attn_implementation=attention).to(
        dtype
    )
    model.load_state_dict(source.state_dict())
    return Backbone(model, tokenizer, ModelConfig(**config), name=name).eval()


def small_model(name: str | None, folder: Path) -> dict[str, Any]:
    """Section `model` of a preset made small: the embedded backbone, or a random one of an architecture in `folder`."""
    if name is None:
        return {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 24, "device": "cpu"}
    backbone = make_backbone(name, dtype=torch.float32)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return {"id": str(folder), "device": "cpu"}


@pytest.fixture(params=ARCHITECTURES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """A random backbone of each architecture."""
    return make_backbone(request.param)


@pytest.fixture
def llama() -> Backbone:
    """A random tied Llama."""
    return make_backbone("llama")


@pytest.fixture(scope="session")
def backbone_of() -> Callable[..., Backbone]:
    """`make_backbone`, for tests that need several."""
    return make_backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the slow tests, run the third whose turn it is at this commit; all with LATBENCH_ALL_TESTS=1 or by name."""
    if os.environ.get("LATBENCH_ALL_TESTS") == "1" or any("::" in argument for argument in config.args):
        return
    commits = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=config.rootpath, capture_output=True, text=True, check=False
    )
    turn = int(commits.stdout or 0) % 3
    waiting = [i for i in items if i.get_closest_marker("slow") and zlib.crc32(i.nodeid.encode()) % 3 != turn]
    config.hook.pytest_deselected(items=waiting)
    items[:] = [item for item in items if item not in waiting]
