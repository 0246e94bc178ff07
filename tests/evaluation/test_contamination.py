"""Training rows that ask a question of an evaluation: counted for its very questions, and shown at its number."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latbench.cli import main
from latbench.config import RunConfig, parse
from latbench.evaluation.compare import compare, render
from latbench.evaluation.contamination import recomputed
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.metrics import caveats, summarise
from latbench.evaluation.records import MANIFEST, read_evaluation, read_manifest, write_manifest
from latbench.exporting import export
from latbench.runs.run import Run, load_run
from latbench.runs.train import base_run, train
from latbench.runs.train_questions import QUESTIONS, either, question_keys, read_train_questions
from latbench.submission import check_evaluation
from latbench.task import Example


@pytest.fixture(scope="module")
def leaked(small: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on the 20 test questions, the first of them twice in all: as a start, and again."""
    given = small.to_tree() | {"start": {"method": "cot", "train": {"num_examples": 12, "max_steps": 1}}}
    config = parse(given, preset="none", overrides=["train.split=test", "start.train.split=test"])
    return train(config, runs_dir=tmp_path_factory.mktemp("leaked"))


@pytest.fixture
def own(leaked: Run, tmp_path: Path) -> Run:
    return load_run(shutil.copytree(leaked.folder, tmp_path / leaked.folder.name))


def test_rows_are_counted_for_the_questions_of_the_evaluation(own: Run) -> None:
    assert summarise(read_evaluation(evaluate(EvalJob.of(own, "synth")))).contaminated == 20
    assert summarise(read_evaluation(evaluate(EvalJob.of(own, "synth", limit=3)))).contaminated == 3
    other = EvalJob.of(own, "synth", split="validation", limit=3)
    assert summarise(read_evaluation(evaluate(other))).contaminated == 0


def test_a_clean_run_says_so_and_one_that_does_not_know_says_nothing(run: Run) -> None:
    manifest = read_manifest(evaluate(EvalJob.of(run, "synth", limit=3)))
    assert manifest.contaminated == 0
    (run.folder / QUESTIONS).unlink()
    folder = evaluate(EvalJob.of(run, "synth", limit=4))
    assert read_manifest(folder).contaminated is None
    assert "contaminated" not in json.loads((folder / MANIFEST).read_text()), "older manifests have no such key"


def test_a_model_that_is_the_checkpoint_of_a_run_has_seen_what_the_run_saw(own: Run, tmp_path: Path) -> None:
    given = own.config.to_tree() | {"start": None}
    config = parse(given, preset="none", overrides=[f"model.id={own.folder / 'checkpoint'}"])
    job = EvalJob.of(base_run(config, runs_dir=tmp_path / "base"), "synth", limit=5)
    assert read_manifest(evaluate(job)).contaminated == 5
    assert check_evaluation(job.folder).problems == []


@pytest.mark.parametrize("exported", [False, True])
def test_training_that_goes_on_with_what_a_run_learnt_has_seen_what_the_run_saw(
    own: Run, tmp_path: Path, exported: bool
) -> None:
    model = export(own, str(tmp_path / "shared")) if exported else str(own.folder / "checkpoint")
    config = parse(
        own.config.to_tree() | {"start": None},
        preset="none",
        overrides=[f"model.id={model}", "train.split=train", "train.num_examples=4"],
    )
    job = EvalJob.of(train(config, runs_dir=tmp_path / "runs"), "synth", limit=5)
    assert read_manifest(evaluate(job)).contaminated == 5
    assert check_evaluation(job.folder).problems == []
    shutil.move(model, tmp_path / "elsewhere")
    assert check_evaluation(job.folder).problems == [], "on a machine without that model"


def test_eval_compare_and_check_say_it(own: Run, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(own.folder)]) == 0
    assert "20 training rows ask one of its questions" in capsys.readouterr().err
    folder = own.folder / "eval" / "synth-test"
    found = check_evaluation(folder)
    assert found.problems == []
    assert f"{folder}: 20 training rows ask one of its questions" in found.caveats
    text = render(compare(read_evaluation(folder), read_evaluation(evaluate(EvalJob.of(run, "synth")))))
    assert "mind: 20 training rows of A ask one of these questions" in text


@pytest.mark.parametrize("stated", [None, 0, 19, 21])
def test_a_manifest_that_says_otherwise_is_refused(own: Run, stated: int | None) -> None:
    folder = evaluate(EvalJob.of(own, "synth"))
    write_manifest(folder, replace(read_manifest(folder), contaminated=stated))
    (problem,) = check_evaluation(folder).problems
    assert f"contaminated is {stated or 0} in the manifest, but 20 training rows ask one of its questions" in problem


def test_what_is_recomputed_is_what_the_run_counted(own: Run, run: Run) -> None:
    for one in (own, run):
        for limit in (None, 3):
            job = EvalJob.of(one, "synth", limit=limit)
            assert recomputed(job) == job.manifest.contaminated


def test_a_row_of_a_run_and_its_start_counts_once_and_a_repeated_row_as_often_as_it_is_there() -> None:
    rows = [Example(id=str(i), question=q, steps=(), answer="") for i, q in enumerate(["One?", "one", "Two?"])]
    keys = question_keys(rows)
    assert len(set(keys.tolist())) == 2
    assert either(keys, keys).tolist() == keys.tolist()
    assert len(either(keys, question_keys(rows[:1]))) == 3
    assert len(either(question_keys(rows[2:]), question_keys(rows[:2]))) == 3


def test_the_file_of_a_run_with_a_start_holds_the_rows_of_both(leaked: Run) -> None:
    start = leaked.folder.parent / leaked.report["start"]["run"]
    own, before = read_train_questions(leaked.folder), read_train_questions(start)
    assert own is not None
    assert before is not None
    assert (len(own), len(before)) == (20, 12)
    assert np.isin(before, own).all()


def test_what_is_known_against_a_number_is_a_sentence_each(make: Any, record: Any) -> None:
    evaluation = make(
        [
            record("a"),
            record("b", False, status="no_answer", extracted=None, stop_reason="length"),
        ],
        contaminated=3,
        config={"model": {"dtype": "float32"}, "train": {"precision": "bfloat16"}},
    )
    summary = summarise(evaluation)
    assert summary.mixed_precision
    assert [caveat.sentence for caveat in caveats(summary)] == [
        "3 training rows ask one of its questions",
        "it was trained in bfloat16",
        "50.0 % of its answers have none that could be read",
        "50.0 % of its answers end at a cap",
    ]
    half = replace(evaluation.manifest, config={"model": {"dtype": "bfloat16"}})
    assert caveats(summarise(replace(evaluation, manifest=half)))[1].sentence.startswith(
        "its weights have less than 32 bits"
    )
    clean = replace(evaluation.manifest, contaminated=0, config={"model": {"dtype": "float64"}, "train": {}})
    assert not summarise(replace(evaluation, manifest=clean)).mixed_precision
