"""Freed memory goes back to the system, and training asks for that."""

from __future__ import annotations

import ctypes
import platform

import psutil
import pytest
import torch

from latbench.util import heap


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_holes_between_living_tensors_are_given_back() -> None:
    process = psutil.Process()
    tensors = [torch.ones(1 << 14) for _ in range(1600)]  # 64 kB each: too small for a mapping of its own
    living = tensors[::8]
    del tensors
    before = process.memory_info().rss
    heap.release()
    assert process.memory_info().rss < before - 50 * 2**20  # of 88 MB in the holes
    assert all(bool((tensor == 1).all()) for tensor in living)


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap.release()
    heap._trim.cache_clear()
