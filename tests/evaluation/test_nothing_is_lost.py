"""What is refused leaves everything as it was: records on file, and no folder where there was none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latbench import registry
from latbench.cli import main
from latbench.config import RunConfig, parse
from latbench.evaluation.evaluate import evaluate, evaluate_all
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import MANIFEST, RECORDS, read_manifest, write_manifest
from latbench.evaluation.rerun import rerun
from latbench.measures.trace import NoLatentStepsError, trace
from latbench.runs import environment
from latbench.runs.lock import locked
from latbench.runs.run import Run
from latbench.runs.train import base_run, train

Synth = registry.get_task_entry("synth").cls


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def reversed_data(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    load = Synth.load
    monkeypatch.setattr(Synth, "load", lambda self, split: load(self, split)[::-1])
    known = read_manifest(folder).data["synth/test"]
    monkeypatch.setattr(Synth, "fingerprint", lambda self, split: replace(known, sha256="0"))
    return {}


def damaged_under_newer_code(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    lines = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    (folder / RECORDS).write_bytes(b"".join([*lines[:3], b"no record\n", *lines[4:]]))
    monkeypatch.setattr(environment, "git_state", lambda: ("f" * 40, False))
    return {}


def other_chunks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    return {"generate.chunk": 16}


@pytest.mark.parametrize("change", [other_chunks, reversed_data, damaged_under_newer_code])
def test_a_refused_evaluation_touches_no_record(
    run: Run, change: Callable[[pytest.MonkeyPatch, Path], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluate(EvalJob.of(run, "synth"))
    changes = change(monkeypatch, folder)
    before = contents(folder)
    with pytest.raises(ValueError, match="holds records of another"):
        evaluate(EvalJob.of(run, "synth", changes=changes))
    assert contents(folder) == before
    assert read_manifest(folder).complete


def test_a_command_that_names_a_refused_task_answers_none(run: Run) -> None:
    jobs = [EvalJob.of(run, "synth", limit=2), EvalJob.of(run, "synth", split="nowhere")]
    with pytest.raises(ValueError, match="has no split 'nowhere'"):
        evaluate_all(jobs)
    assert not (run.folder / "eval").exists()
    folder = evaluate(jobs[0])
    write_manifest(folder, replace(read_manifest(folder), n=3))
    with pytest.raises(ValueError, match="another number of answers"):
        evaluate_all([EvalJob.of(run, "synth", limit=4), EvalJob.of(run, "synth", limit=2)])
    assert [path.name for path in (run.folder / "eval").iterdir()] == [folder.name]


def test_decoding_that_the_method_cannot_do_is_refused_before_a_folder_is_made(coconut: Run) -> None:
    job = EvalJob.of(coconut, "synth", limit=2, changes={"generate.max_latents": 1})
    with pytest.raises(ValueError, match=r"generate\.max_latents is 1"):
        evaluate(job)
    assert not job.folder.exists()


def test_an_unfinished_run_gets_no_evaluation_folder(run: Run) -> None:
    (run.folder / "train.json").unlink()
    with pytest.raises(ValueError, match="is not trained to its end"):
        evaluate(EvalJob.of(run, "synth", limit=2))
    assert not (run.folder / "eval").exists()


def test_a_model_as_it_comes_leaves_no_folder_where_its_evaluation_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--model", "tiny", "--method", "cot", "--runs-dir", str(tmp_path / "runs"), "--limit", "2"]
    assert main([*command, "--split", "nowhere"]) == 2
    assert main([*command, "--set", "generate.chunk=0"]) == 2
    assert main([*command, "--device", "cuda:63"]) == 2
    assert "cuda:63" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_trace_without_latent_steps_leaves_no_folder(run: Run) -> None:
    job = EvalJob.of(run, "synth", limit=2)
    with pytest.raises(NoLatentStepsError):
        trace(job)
    assert not job.folder.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"eval": {"task": {"name": "nowhere"}, "split": "test", "limit": None, "seed": 0}}, "unknown task 'nowhere'"),
        ({"eval": {"task": {"name": "synth"}, "split": "none", "limit": None, "seed": 0}}, "has no split 'none'"),
    ],
)
def test_a_repetition_that_cannot_be_evaluated_is_not_trained(run: Run, change: dict[str, Any], sentence: str) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=2))
    manifest = read_manifest(result)
    write_manifest(result, replace(manifest, config=manifest.config | change))
    with pytest.raises(ValueError, match=sentence):
        rerun(result, runs_dir=run.folder.parent)
    assert not (run.folder.parent / ".rerun").exists()


def test_a_repetition_on_other_questions_is_not_trained(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=2))
    write_manifest(result, replace(read_manifest(result), questions_sha256="0" * 64))
    with pytest.raises(ValueError, match="answers other questions than synth/test holds now"):
        rerun(result, runs_dir=run.folder.parent)
    assert not (run.folder.parent / ".rerun").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["train.stages.nowhere.lr=1"], "unknown stage in train.stages 'nowhere'"),
        (["train.split=nowhere"], "has no split 'nowhere'"),
        (["model.device=cuda:63"], "model.device is 'cuda:63'"),
    ],
)
def test_a_training_that_is_refused_leaves_no_folder(
    small: RunConfig, tmp_path: Path, settings: list[str], sentence: str
) -> None:
    config = parse(small.to_tree(), preset="none", overrides=settings)
    with pytest.raises(ValueError, match=sentence):
        train(config, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_a_method_refuses_of_its_data_leaves_no_folder(small: RunConfig, tmp_path: Path) -> None:
    """Only the method knows it, when its first stage is prepared."""
    given = small.to_tree() | {"method": {"name": "coconut", "max_stage": 9}}
    config = parse(given, preset="none")
    with pytest.raises(ValueError, match=r"method\.max_stage"):
        train(config, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_decoding_that_the_method_cannot_do_is_refused_before_it_is_trained(small: RunConfig, tmp_path: Path) -> None:
    given = small.to_tree() | {"method": {"name": "pause", "num_pauses": 4}}
    config = parse(given, preset="none", overrides=["generate.max_latents=2"])
    with pytest.raises(ValueError, match=r"generate\.max_latents is 2"):
        train(config, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_is_wrong_above_a_start_is_refused_before_the_start_is_trained(small: RunConfig, tmp_path: Path) -> None:
    given = small.to_tree() | {"start": {"method": "cot", "train": {"max_steps": 1}}}
    config = parse(given, preset="none", overrides=["train.stages.nowhere.lr=1"])
    with pytest.raises(ValueError, match=r"unknown stage in train\.stages 'nowhere'"):
        train(config, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.folder / "train.json").unlink()
    before = contents(run.folder)
    monkeypatch.setattr(Synth, "load", lambda self, split: [])
    with pytest.raises(ValueError, match="was begun with other training data"):
        train(run.config, runs_dir=run.folder.parent, resume=True)
    assert contents(run.folder) == before


def test_a_lock_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("")
    assert (tmp_path / "a" / "b" / "kept").exists()
    (tmp_path / "own").mkdir()
    with locked(tmp_path / "own"):
        pass
    assert (tmp_path / "own").is_dir(), "it was there before"


def test_a_picture_that_is_refused_comes_before_the_tables(
    make: Any, record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make([record("a")])
    out = tmp_path / "tables"
    assert main(["leaderboard", str(tmp_path), "--out", str(out), "--plot", str(tmp_path / "picture.gif")]) == 2
    assert "unknown picture format '.gif'" in capsys.readouterr().err
    assert not out.exists()


def test_with_rounded_weights_the_batch_size_belongs_to_the_records(run: Run) -> None:
    """Sums of rounded numbers depend on the batch; exact weights take any."""
    folder = evaluate(EvalJob.of(run, "synth", limit=2))
    assert evaluate(EvalJob.of(run, "synth", limit=2, changes={"generate.batch_size": 3})) == folder
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["config"]["model"]["dtype"] = "bfloat16"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    before = contents(folder)
    with pytest.raises(ValueError, match=r"holds records of another generate.batch_size \(256, now 3\)"):
        evaluate(EvalJob.of(run, "synth", limit=2, changes={"generate.batch_size": 3}))
    assert contents(folder) == before
    assert evaluate(EvalJob.of(run, "synth", limit=2)) == folder


def test_the_dtype_that_files_decide_stands_in_the_manifest(small: RunConfig, tmp_path: Path) -> None:
    config = parse(small.to_tree(), preset="none", overrides=["model.dtype=auto"])
    manifest = read_manifest(evaluate(EvalJob.of(base_run(config, runs_dir=tmp_path), "synth", limit=2)))
    assert manifest.dtype == "float32"
    assert not manifest.is_rounded
    assert replace(manifest, dtype=None).is_rounded, "a manifest that does not say counts as rounded"
    exact = read_manifest(evaluate(EvalJob.of(base_run(small, runs_dir=tmp_path), "synth", limit=2)))
    assert exact.dtype is None
    assert not exact.is_rounded
