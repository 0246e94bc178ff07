"""Latent steps as text, for methods that can read them: through traces, inspections and the command."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from latbench import registry
from latbench.cli import main
from latbench.config import GenerateConfig, parse
from latbench.decoding.rule import FixedLatents, StepRule
from latbench.decoding.sampling import Sampling
from latbench.evaluation.job import EvalJob
from latbench.measures.inspect import inspect, render
from latbench.measures.latents import StoredTrace
from latbench.measures.trace import trace
from latbench.runs.run import Run, load_run
from latbench.runs.train import train
from methods.cot import Cot, CotConfig

SETTINGS = (
    "train.max_steps=2", "train.batch_size=4", "task.num_train=40", "task.num_test=10", "generate.chunk=4",
    "generate.max_new_tokens=6", "generate.trace_top_k=3", "model.hidden_size=16", "model.num_heads=2",
    "model.num_layers=1", "model.mlp_size=16", "model.dtype=float64",
)  # fmt: skip


class Readable(Cot):
    """Thinks in three latent steps, in pairs; a helper model reads the pairs: here their sign in one direction."""

    def build_auxiliary(self) -> None:
        self.auxiliary["reader"] = nn.Linear(self.backbone.hidden_size, 1, bias=False, dtype=torch.float64)

    def rule(self, config: GenerateConfig) -> StepRule:
        return FixedLatents(self.backbone, 3, sampling=Sampling.from_config(config))

    def read_latents(self, embeds: Tensor) -> list[str] | None:
        if "reader" not in self.auxiliary:
            return None
        return ["", *("up\x1b" if value > 0 else "down" for value in self.auxiliary["reader"](embeds.double())[1:, 0])]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A trained run; not to be written to."""
    registry.register_method("readable", config=CotConfig)(Readable)
    yield train(parse({"method": "readable"}, overrides=SETTINGS), runs_dir=tmp_path_factory.mktemp("thinker"))
    del registry._entries["method"]["readable"]


@pytest.fixture
def readable(thinker: Run, tmp_path: Path) -> Run:
    """A copy of it, alone in a folder of runs."""
    folder = tmp_path / "runs" / thinker.folder.name
    shutil.copytree(thinker.folder, folder)
    return load_run(folder)


def test_helper_models_are_loaded_only_for_methods_that_read(readable: Run, run: Run) -> None:
    assert not readable.method.auxiliary
    assert set(readable.with_helpers_for("read_latents").method.auxiliary) == {"reader"}
    assert run.with_helpers_for("read_latents") is run


def test_texts_come_with_the_trace_of_an_answer(readable: Run) -> None:
    (mute,) = readable.method.generate(["what?"], GenerateConfig(), trace=True)
    (told,) = readable.with_helpers_for("read_latents").method.generate(["what?"], GenerateConfig(), trace=True)
    assert mute.trace is not None
    assert told.trace is not None
    assert mute.trace.texts is None
    assert told.trace.texts == readable.with_helpers_for("read_latents").method.read_latents(told.trace.embeds)
    assert torch.equal(mute.trace.embeds, told.trace.embeds)


def test_texts_are_stored_and_shown(readable: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = EvalJob.of(readable, "synth")
    now = [inspect(job, index=index, top=2) for index in (0, 9)]
    traces = StoredTrace.open(trace(job))
    texts = [traces.get(question).texts for question in range(10)]
    assert {text for row in texts for text in row or ()} == {"", "up\x1b", "down"}
    monkeypatch.setattr(Readable, "read_latents", lambda *_: ["not what is on file"] * 3)
    for index, before in zip((0, 9), now, strict=True):
        stored = inspect(job, index=index, top=2)
        expected = [step.text for step in stored.latents]
        assert (before.from_file, stored.from_file) == (False, True)
        assert expected == [step.text for step in before.latents] == texts[index]
        table = render(stored)
        assert "read as" in table
        assert "\x1b" not in table
        for text in filter(None, expected):
            assert f"'{text}'".replace("\x1b", "\\x1b") in table


def test_traces_without_texts_still_open(readable: Run) -> None:
    """As older versions wrote them."""
    job = EvalJob.of(readable, "synth")
    folder = trace(job)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            header = {"header": file.metadata()["header"]}
        safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata=header)
    traces = StoredTrace.open(folder)
    assert traces.get(7).texts is None
    assert len(traces.get(7).entropy) == 3
    found = inspect(job, index=7)
    assert [step.text for step in found.latents] == [None] * 3
    assert "read as" not in render(found)
    assert "read as" in render(replace(found, latents=(replace(found.latents[0], text="1+1"), *found.latents[1:])))


def test_the_commands_show_what_is_read(readable: Run, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(readable.folder), "--limit", "5"]
    for origin in ("generated now", "stored trace"):
        capsys.readouterr()
        assert main(["inspect", *where]) == 0
        out = capsys.readouterr().out
        assert origin in out
        assert "read as" in out
        assert "'down'" in out or "'up\\x1b'" in out
        assert main(["trace", *where]) == 0
