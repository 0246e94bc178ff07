"""Evaluations: chunks, resume to the same bytes, what is refused, what stands in the manifest."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latbench.config import parse
from latbench.evaluation import evaluate as module
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import plan
from latbench.evaluation.records import MANIFEST, RECORDS, Record, read_evaluation, read_manifest
from latbench.runs.environment import git_state, hardware
from latbench.runs.run import Run, load_run
from latbench.runs.train import base_run


@pytest.fixture(scope="module")
def whole(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Records of an undisturbed evaluation."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained.folder, folder)
    return (evaluate(EvalJob.of(load_run(folder), "synth")) / RECORDS).read_bytes()


def test_every_question_is_answered_once_in_file_order(run: Run) -> None:
    folder = evaluate(EvalJob.of(run, "synth"))
    assert folder == run.folder / "eval" / "synth-test"
    found = read_evaluation(folder)
    assert [record.id for record in found.records] == [f"test-{i}" for i in range(20)]
    assert [record.chunk for record in found.records] == [0] * 8 + [1] * 8 + [2] * 4
    assert found.manifest.complete
    assert found.manifest.n == 20
    assert all(record.gold_chain_length > 0 for record in found.records)


def test_samples_of_a_question_stand_together(run: Run) -> None:
    changes = {"generate.samples": 2, "generate.temperature": 1.0}
    records = read_evaluation(evaluate(EvalJob.of(run, "synth", limit=5, changes=changes))).records
    assert [(record.id, record.sample) for record in records] == [(f"test-{i}", s) for i in range(5) for s in (0, 1)]
    assert any(a.reasoning != b.reasoning for a, b in zip(records[::2], records[1::2], strict=True))


def test_equal_samples_are_refused_before_anything_is_written(run: Run) -> None:
    job = EvalJob.of(run, "synth", limit=3, changes={"generate.samples": 4})
    sentence = r"generate\.samples is 4, but method 'cot' draws nothing at generate\.temperature=0"
    with pytest.raises(ValueError, match=sentence):
        evaluate(job)
    assert not job.folder.exists()


def test_methods_with_noise_of_their_own_may_be_sampled_at_temperature_zero() -> None:
    def draws(method: str, **settings: Any) -> bool:
        config = parse({"method": {"name": method, **settings}})
        return bool(config.method.draws(config.generate))

    assert [draws("soft_thinking", variant=name) for name in ("soft", "gumbel", "dirichlet", "moi", "discrete")] == [
        False, True, True, False, True,
    ]  # fmt: skip
    assert not draws("soft_thinking", variant="discrete", top_k=1)
    for method in ("colar", "latent_sft"):
        assert not draws(method)
        noisy = parse({"method": method}, overrides=["generate.method.latent_noise=1.0"])
        assert noisy.method.draws(noisy.generate)


def test_an_evaluation_cut_anywhere_resumes_to_the_same_bytes(run: Run, whole: bytes) -> None:
    path = evaluate(EvalJob.of(run, "synth")) / RECORDS
    for size in random.Random(0).sample(range(len(whole)), 8):
        path.write_bytes(whole[:size])
        evaluate(EvalJob.of(run, "synth"))
        assert path.read_bytes() == whole


def test_whole_chunks_are_not_answered_again(run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = evaluate(EvalJob.of(run, "synth")) / RECORDS
    answered: list[int] = []
    original = module.answer_chunk

    def counting(*args: Any) -> list[Record]:
        answered.append(args[3])
        return original(*args)

    monkeypatch.setattr(module, "answer_chunk", counting)
    evaluate(EvalJob.of(run, "synth"))
    assert answered == []
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    evaluate(EvalJob.of(run, "synth"))
    assert answered == [1, 2]
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"not a record\n", *lines[4:]]))
    evaluate(EvalJob.of(run, "synth"))
    assert answered == [1, 2, 0, 1, 2]
    assert path.read_bytes() == whole


def test_a_failure_inside_a_chunk_loses_no_earlier_chunk(
    run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.answer_chunk

    def failing(*args: Any) -> list[Record]:
        if args[3] == 2:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "answer_chunk", failing)
        with pytest.raises(KeyboardInterrupt):
            evaluate(EvalJob.of(run, "synth"))
    folder = run.folder / "eval" / "synth-test"
    assert len((folder / RECORDS).read_bytes().splitlines()) == 16
    before = read_manifest(folder)
    assert not before.complete
    assert before.evaluation["answers"] == 16
    evaluate(EvalJob.of(run, "synth"))
    assert (folder / RECORDS).read_bytes() == whole
    assert read_manifest(folder).evaluation["answers"] == 20
    assert read_manifest(folder).evaluation["seconds"] > before.evaluation["seconds"]


@pytest.mark.slow
def test_a_killed_evaluation_resumes_to_the_same_bytes(run: Run, whole: bytes) -> None:
    command = [sys.executable, "-m", "latbench", "eval", str(run.folder)]
    path = run.folder / "eval" / "synth-test" / RECORDS
    moments = random.Random(len(whole))
    for _ in range(2):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
        while process.poll() is None and not path.exists():
            time.sleep(0.01)
        time.sleep(moments.random() / 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        path.write_bytes(path.read_bytes()[:-1])
    assert subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True).returncode == 0
    assert path.read_bytes() == whole


def test_the_batch_size_changes_no_record(run: Run, whole: bytes) -> None:
    job = EvalJob.of(run, "synth", changes={"generate.batch_size": 3})
    assert job.folder.name == "synth-test"
    assert (evaluate(job) / RECORDS).read_bytes() == whole


def test_what_changes_answers_gets_its_own_folder(run: Run) -> None:
    plans = [
        plan(run.config, "synth"),
        plan(run.config, "synth", limit=5),
        plan(run.config, "synth", split="validation"),
        plan(run.config, "synth", changes={"seed": 3}),
        plan(run.config, "synth", changes={"generate.temperature": 1.0}),
        plan(run.config, "synth", changes={"task.scorer": "last_number"}),
        plan(run.config, "math500"),
    ]
    names = [EvalJob(run, settings).folder.name for settings in plans]
    assert len(set(names)) == len(names)
    assert names[:3] == ["synth-test", "synth-test-first5", "synth-validation"]
    assert names[6] == "math500-test"


def test_what_training_fixed_cannot_be_changed(run: Run) -> None:
    with pytest.raises(ValueError, match=r"train.lr is fixed by the run's training; an evaluation takes generate"):
        plan(run.config, "synth", changes={"train.lr": 1})
    with pytest.raises(ValueError, match=r"unknown key 'generate.temprature'; did you mean 'generate.temperature'"):
        plan(run.config, "synth", changes={"generate.temprature": 1})
    with pytest.raises(ValueError, match="unknown task 'synt'"):
        plan(run.config, "synt")


def test_the_manifest_places_the_evaluation_in_a_table(run: Run) -> None:
    changes = {"generate.max_new_tokens": 5, "task.scorer": "last_number"}
    manifest = read_manifest(evaluate(EvalJob.of(run, "synth", limit=4, changes=changes)))
    assert (manifest.task, manifest.split, manifest.method, manifest.seed, manifest.n) == ("synth", "test", "cot", 0, 4)
    assert manifest.backbone == "tiny-16x1"
    assert manifest.layout == "default"
    assert manifest.train_data == run.report["train_data"]
    assert "generate.max_new_tokens=5" in manifest.variant
    assert manifest.variant.endswith("task.scorer=last_number")
    assert set(manifest.data) == {"synth/train", "synth/test"}
    assert manifest.config["eval"]["limit"] == 4
    assert manifest.train["optimiser_steps"] == 2
    assert manifest.evaluation.keys() == {"seconds", "answers", "peak_memory_bytes"}
    assert all(value > 0 for value in manifest.evaluation.values())
    other = read_manifest(evaluate(EvalJob.of(run, "synth", limit=4)))
    assert other.setting != manifest.setting


def test_another_seed_of_an_evaluation_is_another_setting(run: Run) -> None:
    first = read_manifest(evaluate(EvalJob.of(run, "synth", limit=2)))
    second = read_manifest(evaluate(EvalJob.of(run, "synth", limit=2, changes={"seed": 9})))
    assert first.setting == run.config.setting
    assert (first.seed, second.seed) == (0, 0)  # of training: other draws of one model are no seed of the method
    assert second.setting != first.setting
    assert second.variant.endswith("eval.seed=9")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"setting": "x"}, "setting"),
        ({"git_commit": "0" * 40, "complete": False}, "latbench commit"),
        ({"n": 9}, "number of answers"),
        ({"data": {}}, "data"),
    ],
)
def test_records_of_another_evaluation_are_refused(run: Run, change: dict[str, Any], name: str) -> None:
    folder = evaluate(EvalJob.of(run, "synth", limit=2))
    manifest = json.loads((folder / MANIFEST).read_text()) | change
    (folder / MANIFEST).write_text(json.dumps(manifest))
    before = (folder / RECORDS).read_bytes()
    with pytest.raises(ValueError, match=f"holds records of another {name} .*; remove the folder to evaluate anew"):
        evaluate(EvalJob.of(run, "synth", limit=2))
    assert (folder / RECORDS).read_bytes() == before


def test_another_chunk_size_and_records_without_manifest_are_refused(run: Run) -> None:
    folder = evaluate(EvalJob.of(run, "synth", limit=2))
    with pytest.raises(ValueError, match=r"another generate.chunk"):
        evaluate(EvalJob.of(run, "synth", limit=2, changes={"generate.chunk": 4}))
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"holds records without manifest.json"):
        evaluate(EvalJob.of(run, "synth", limit=2))


def test_two_evaluations_into_one_folder_are_refused(run: Run) -> None:
    from latbench.runs.lock import locked

    with locked(run.folder / "eval" / "synth-test"), pytest.raises(ValueError, match="is being written by process"):
        evaluate(EvalJob.of(run, "synth"))


def test_a_base_run_is_evaluated_untrained(run: Run, tmp_path: Path) -> None:
    base = base_run(run.config, runs_dir=tmp_path)
    manifest = read_manifest(evaluate(EvalJob.of(base, "synth", limit=3)))
    assert manifest.train_data == "none"
    assert manifest.train == {}
    assert set(manifest.data) == {"synth/test"}
    assert manifest.complete


def test_absent_cuda_is_one_sentence(run: Run) -> None:
    with pytest.raises(ValueError, match=r"model.device is 'cuda:63' but this machine has \d+ CUDA devices"):
        load_run(run.folder, device="cuda:63").method  # noqa: B018


def test_hardware_and_commit_are_described() -> None:
    facts = hardware()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 0
    assert facts["cpu"]
    commit, dirty = git_state()
    assert (commit is None) == (dirty is None)


def test_an_installed_copy_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latbench.runs import environment

    place = tmp_path / "site-packages" / "latbench" / "runs"
    place.mkdir(parents=True)
    subprocess.run(
        ["git", "init", "-q", str(tmp_path)], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    )
    monkeypatch.setattr(environment, "__file__", str(place / "environment.py"))
    assert git_state() == (None, None)


def test_limit_takes_the_first_questions_of_the_whole(run: Run, whole: bytes) -> None:
    path = evaluate(EvalJob.of(run, "synth", limit=3)) / RECORDS
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])


def test_plans_are_equal_when_nothing_is_changed(run: Run) -> None:
    assert plan(run.config, "synth", changes={}) == replace(plan(run.config, "synth", limit=3), limit=None)
