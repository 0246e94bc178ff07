"""A killed run goes on with what it was begun with: data, model, versions; all else is refused, nothing changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from latbench import registry
from latbench.config import RunConfig, parse
from latbench.data import DATA_DIR
from latbench.data.file_task import FileTask, Source
from latbench.model.backbone import Backbone
from latbench.runs import begun, environment
from latbench.runs.run import CHECKPOINT, CONFIG, TRAIN, Run, load_run
from latbench.runs.train import base_run, keep, train
from latbench.task import TaskConfig
from latbench.training import checkpoint

SMALL = ["train.max_steps=2", "train.batch_size=2", "train.save_every=1", "model.device=cpu"]
ROWS = [
    {"id": f"t{n}", "question": f"{n} + 1?", "steps": [f"<<{n}+1={n + 1}>>"], "answer": str(n + 1)} for n in range(8)
]


class Mine(FileTask[TaskConfig]):
    """A task whose training rows lie in one file."""

    name = "mine"
    kind = "number"
    sources: ClassVar[dict[str, Source]] = {"train": Source(file="mine.jsonl")}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


def killed(config: RunConfig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run killed between its last step and its checkpoint."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", kill)
        with pytest.raises(Killed):
            train(config, runs_dir=runs_dir)
    return runs_dir / config.run_id


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The training file of a task `mine`, with eight rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_DIR, str(folder))
    monkeypatch.setitem(registry._entries["task"], "mine", registry.Entry(name="mine", cls=Mine, config=TaskConfig))
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def model(backbone_of: Callable[..., Backbone], tmp_path: Path) -> Path:
    """A model in a folder."""
    backbone = backbone_of("llama", dtype=torch.float32)
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def another_seed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, folder / "model.safetensors")


def refused(config: RunConfig, folder: Path, reason: str) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match=reason) as caught:
        train(config, runs_dir=folder.parent, resume=True)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_killed_run_does_not_go_on_with_other_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse({"method": "cot", "task": "mine"}, overrides=SMALL)
    folder = killed(config, tmp_path / "runs", monkeypatch)
    old = data.read_text()
    data.write_text(old.replace('"answer": "8"', '"answer": "9"'))
    refused(config, folder, r"was begun with other training data \(mine/train \w{12}, now \w{12}\); continue it")
    data.write_text(old)
    run = train(config, runs_dir=tmp_path / "runs", resume=True)
    told = run.report["begun"]
    assert told["data"] == {name: found["sha256"] for name, found in run.report["data"].items()}
    assert told["examples"]["n"] == 8


def test_a_killed_run_does_not_go_on_with_another_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(
        {"method": "cot", "model": {"id": str(model)}, "task": {"name": "synth", "num_train": 8}}, overrides=SMALL
    )
    folder = killed(config, tmp_path / "runs", monkeypatch)
    kept = shutil.copytree(model, tmp_path / "kept")
    another_seed(model)
    refused(config, folder, r"was begun with other model files \(model\.safetensors \w{12}, now \w{12}\)")
    shutil.rmtree(model)
    kept.rename(model)
    assert train(config, runs_dir=tmp_path / "runs", resume=True).is_complete


def test_a_killed_run_does_not_go_on_with_other_versions(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed(small, tmp_path, monkeypatch)
    versions = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda: versions | {"torch": "9.0", "sympy": "9.0"})
    refused(small, folder, rf"with other versions \(torch {re.escape(versions['torch'][:12])}, now 9\.0\)")
    monkeypatch.setattr(environment, "versions", lambda: versions | {"sympy": "9.0"})  # it changes no weight
    assert train(small, runs_dir=tmp_path, resume=True).is_complete


def test_a_run_that_does_not_say_what_it_was_begun_with_does_not_go_on(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed(small, tmp_path, monkeypatch)
    text = (folder / begun.BEGUN).read_text()
    (folder / begun.BEGUN).write_text(text[:20])
    refused(small, folder, r"begun\.json is damaged; remove")
    (folder / begun.BEGUN).unlink()
    refused(small, folder, r"does not say what its training was begun with \(begun\.json is missing\)")


def test_what_cannot_be_trained_leaves_no_configuration_behind(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    config = parse({"method": "cot", "model": {"id": str(model)}}, overrides=SMALL)
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        train(config, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs" / config.run_id / CONFIG).exists()


def test_a_model_as_it_comes_is_evaluated_with_the_files_of_its_first_answers(model: Path, tmp_path: Path) -> None:
    config = parse({"method": "cot", "model": {"id": str(model)}})
    run = base_run(config, runs_dir=tmp_path)
    keep(run)
    assert "model.safetensors" in json.loads((run.folder / TRAIN).read_text())["model"]
    assert base_run(config, runs_dir=tmp_path).folder == run.folder
    another_seed(model)
    with pytest.raises(ValueError, match=r"was made with other files of the model .* \(model\.safetensors\); remove"):
        base_run(config, runs_dir=tmp_path)


def test_a_damaged_start_is_refused(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / trained.folder.name)
    start = {key: value for key, value in trained.config.to_tree().items() if key not in ("seed", "task", "model")}
    tree = trained.config.to_tree() | {"start": start}
    another_seed(tmp_path / trained.folder.name / CHECKPOINT)
    with pytest.raises(ValueError, match=r"start: checkpoint .* is damaged: model\.safetensors is not the file"):
        train(RunConfig.from_tree(tree), runs_dir=tmp_path)


def test_a_run_whose_checkpoint_holds_another_seeds_weights_does_not_answer(run: Run) -> None:
    another_seed(run.folder / CHECKPOINT)
    with pytest.raises(ValueError, match=r"is damaged: model\.safetensors is not the file that was saved"):
        load_run(run.folder).generate(["n0 = 1 ; n0 ?"])
