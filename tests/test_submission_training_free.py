"""A result without training is a result like others: the hashes of its model's files are its identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import latbench
from latbench.config import stable_hash
from latbench.evaluation.rerun import rerun
from latbench.report.leaderboard import leaderboard
from latbench.submission import check_evaluation
from latbench.util.files import sha256_of
from tests.conftest import small_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "some_llama"
    small_model("llama", folder)
    return folder


def evaluated(model: Path, runs_dir: Path) -> latbench.Result:
    settings = {"generate.max_new_tokens": 4, "generate.max_latents": 4, "model.device": "cpu"}
    return latbench.evaluate(
        model=str(model), method="soft_thinking", tasks="synth", limit=3, settings=settings, runs_dir=runs_dir
    )


def other_weights(model: Path) -> None:
    """Change a weight of a model."""
    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of an evaluation with another manifest."""
    copy = shutil.copytree(folder, folder.parents[3] / "copy", dirs_exist_ok=True)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def test_it_is_named_by_the_hashes_of_the_models_files(model: Path, tmp_path: Path) -> None:
    found = evaluated(model, tmp_path / "runs")
    hashes = found.manifest.model
    assert hashes is not None
    assert hashes["model.safetensors"] == sha256_of(model / "model.safetensors")
    assert found.manifest.train_data == f"none, model sha256={stable_hash(hashes)}"
    assert check_evaluation(found.folder).problems == []
    assert rerun(found.folder, runs_dir=tmp_path / "runs").num_identical == 3


def test_two_models_of_one_name_share_no_line(model: Path, tmp_path: Path) -> None:
    first = evaluated(model, tmp_path / "first")
    other_weights(model)
    second = evaluated(model, tmp_path / "second")
    assert first.manifest.setting == second.manifest.setting
    board = leaderboard([tmp_path / "first", tmp_path / "second"])
    assert len(board.cells) == 2
    assert board.notices == ()
    for result in (first, second):
        assert result.manifest.train_data in board.text_by_format["md"]
    with pytest.raises(ValueError, match=r"was answered by other files of the model .* \(model.safetensors\); fetch"):
        rerun(first.folder, runs_dir=tmp_path / "again")


def test_an_identity_that_is_not_that_of_the_hashes_is_refused(model: Path, tmp_path: Path) -> None:
    folder = evaluated(model, tmp_path / "runs").folder
    without = changed(folder, lambda manifest: manifest.pop("model"))
    assert "has no hashes of the model's files" in check_evaluation(without).problems[0]
    other = changed(folder, lambda manifest: manifest["model"].update({"model.safetensors": "0" * 64}))
    assert "train_data is 'none, model sha256=" in check_evaluation(other).problems[0]
    wrong = changed(folder, lambda manifest: manifest["model"].update({"model.safetensors": 3}))
    assert "the hash of model.safetensors is no text" in check_evaluation(wrong).problems[0]


def test_a_trained_run_says_nothing_of_a_model(tmp_path: Path) -> None:
    settings = {
        "train.max_steps": 1,
        "train.batch_size": 4,
        "task.num_train": 8,
        "task.num_test": 2,
        "model.num_layers": 1,
    }
    settings |= {"generate.max_new_tokens": 4}
    found = latbench.train("cot", settings=settings, runs_dir=tmp_path).evaluate()
    assert found.manifest.model is None
    assert "model" not in json.loads((found.folder / "manifest.json").read_text(encoding="utf-8"))
