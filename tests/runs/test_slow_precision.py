"""A number format that this machine's CPU is slow at is named before the first step."""

import pytest
import torch

from latbench.config import RunConfig, parse
from latbench.model.loading import is_slow_in_bfloat16
from latbench.runs.train import slow_precision

SLOW = "latbench.model.loading.is_slow_in_bfloat16"


def config(**train: object) -> RunConfig:
    return parse({"method": "cot", "preset": "none", "model": {"device": "cpu"}, "train": train})


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False), ("AMX", False)])
def test_an_x86_cpu_without_512_bit_vectors_is_slow(
    monkeypatch: pytest.MonkeyPatch, capability: str, slow: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert is_slow_in_bfloat16(torch.device("cpu")) is slow
    assert not is_slow_in_bfloat16(torch.device("cuda"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not is_slow_in_bfloat16(torch.device("cpu"))


def test_only_bfloat16_on_such_a_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SLOW, lambda _device: True)
    assert slow_precision(config(precision="float32")) is None
    sentence = slow_precision(config(precision="bfloat16"))
    assert sentence is not None
    assert sentence.startswith("train.precision=bfloat16 is slow on this CPU")
    monkeypatch.setattr(SLOW, lambda _device: False)
    assert slow_precision(config(precision="bfloat16")) is None


def test_the_run_that_is_slow_may_be_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SLOW, lambda _device: True)
    tree = {"method": "colar", "preset": "none", "start": {"method": "cot", "train": {"precision": "bfloat16"}}}
    sentence = slow_precision(parse(tree))
    assert sentence is not None
    assert sentence.startswith("start.train.precision=bfloat16")
