"""A submission that recomputes passes; each way in which it does not is named."""

from __future__ import annotations

import gzip
import json
import random
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latbench import recorded_passes, registry
from latbench import submission as module
from latbench.config import RunConfig, parse
from latbench.evaluation.asked import asked
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import EvalConfig, questions
from latbench.evaluation.records import (
    MANIFEST,
    RECORDS,
    TRACE,
    Record,
    append_records,
    read_evaluation,
    read_manifest,
    write_manifest,
)
from latbench.measures.answer_cost import mean_flops
from latbench.measures.measure_files import CostFile, MeasureHeader, write_measure
from latbench.model.backbone import Backbone
from latbench.recorded_passes import key_of
from latbench.registry import FILES
from latbench.report.leaderboard import leaderboard
from latbench.runs.run import Run
from latbench.submission import _untrained, check, check_evaluation
from latbench.task import Example, Score

RESULTS = Path(__file__).parents[1] / "results"
COMMITTED = sorted(RESULTS.glob("synth/*/*-s0"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, record: Any) -> Path:
    """A folder with one evaluation that recomputes, on 4 generated questions, and its tables."""
    top = tmp_path_factory.mktemp("built")
    config: RunConfig = parse({"method": "cot"}, overrides=["task.num_test=4", "task.num_train=2"])
    job = EvalJob.of(Run(top / config.run_id, config, told={"train_data": "synth/train n=2"}), "synth")
    fresh, examples = job.manifest, job.examples
    folder = top / "synth" / "cot" / config.run_id
    folder.mkdir(parents=True)
    write_manifest(folder, replace(fresh, complete=True, versions={}))
    backbone = Backbone.load(config.model)
    answers = [example.answer if place else "" for place, example in enumerate(examples)]  # the first has none
    append_records(
        folder / RECORDS, [_answered(record, backbone, *pair) for pair in zip(examples, answers, strict=True)]
    )
    leaderboard([top], ["md", "csv", "latex", "html"], top, asked=asked)
    return top


@pytest.fixture
def submission(built: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(built, tmp_path / "submitted")


def _answered(record: Callable[..., Record], backbone: Backbone, example: Example, answer: str) -> Record:
    layout, status = backbone.layout, "correct" if answer else "no_answer"
    num_prompt_tokens, num_step_tokens = len(layout.prompt(example.question)), len(layout.steps(example.steps))
    counts = {"gold_chain_length": num_step_tokens, "num_prompt_tokens": num_prompt_tokens}
    return record(example.id, gold=example.answer, text=answer, extracted=answer or None, status=status, **counts)


def evaluation(submission: Path) -> Path:
    return next(submission.rglob(MANIFEST)).parent


def rewrite(path: Path, line: int, **changes: Any) -> None:
    lines = path.read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), **changes})
    path.write_text("\n".join(lines) + "\n")


def test_what_recomputes_passes(submission: Path) -> None:
    assert check([submission]).problems == []


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_results_recompute(folder: Path) -> None:
    assert check_evaluation(folder).problems == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "correct", "extracted": "7"}, "extracted of 1 records does not recompute; the first: 'test-0' has"),
        ({"status": "incorrect"}, "status of 1 records does not recompute; the first: 'test-0' has 'incorrect'"),
        ({"gold": "77"}, "gold of 1 records does not recompute; the first: 'test-0' has '77' instead of"),
        ({"id": "test-9"}, "id of 1 records does not recompute"),
        ({"seed": 3}, "seed of 1 records does not recompute"),
        ({"chunk": 1}, "chunk of 1 records does not recompute"),
        ({"gold_chain_length": 500}, "gold_chain_length of 1 records does not recompute; the first: 'test-0' has 500"),
        ({"num_prompt_tokens": 1}, "num_prompt_tokens of 1 records does not recompute"),
        ({"decode_steps": 1}, "the first: 'test-0', 1 decode steps for 6 latents and tokens at least"),
        ({"num_latents": 1000, "decode_steps": 2000}, "1000 latents, where at most"),
        ({"num_answer_tokens": 200, "decode_steps": 300}, "200 tokens, where at most 96 were asked for"),
        ({"reasoning": "n0=3"}, "counts of 1 records are impossible; the first: 'test-0', 'n0=3' in no token"),
        (
            {"reasoning": "1+2=3", "num_reasoning_tokens": 2, "decode_steps": 90},
            "'1+2=3' in 2 tokens, of which it has 5",
        ),
        ({"text": "1+2=3", "num_answer_tokens": 2, "decode_steps": 90}, "'1+2=3' in 2 tokens, of which it has 5"),
    ],
)
def test_a_changed_record_is_refused(submission: Path, changes: dict[str, Any], sentence: str) -> None:
    rewrite(evaluation(submission) / RECORDS, 0, **changes)
    assert any(sentence in problem for problem in check_evaluation(evaluation(submission)).problems)


def test_a_timeout_of_the_checker_is_taken_as_it_stands(submission: Path) -> None:
    rewrite(evaluation(submission) / RECORDS, 1, status="timeout")
    assert check_evaluation(evaluation(submission)).problems == []


def test_what_is_correct_by_no_comparison_that_ended_is_refused(
    submission: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(evaluation(submission) / RECORDS, 0, status="incorrect")
    rewrite(evaluation(submission) / RECORDS, 1, status="timeout")

    def too_slow(task: object, pairs: Sequence[object]) -> list[Score]:
        return [Score(status="timeout", extracted=None) for _ in pairs]

    monkeypatch.setattr(registry.get_task_entry("synth").cls, "score_many", too_slow)
    problems = check_evaluation(evaluation(submission)).problems
    sentence = "status of 2 records does not recompute; the first: 'test-2' has 'correct' instead of 'timeout'"
    assert len(problems) == 1
    assert sentence in problems[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run": "synth-cot-mine"}, "run is 'synth-cot-mine' in the manifest, but 'synth-cot-tiny-"),
        ({"setting": "00000000"}, "setting is '00000000' in the manifest, but '"),
        ({"method": "codi"}, "method is 'codi' in the manifest, but 'cot' follows"),
        ({"backbone": "Llama-3.2-1B"}, "backbone is 'Llama-3.2-1B' in the manifest, but 'tiny-128x2' follows"),
        ({"seed": 7}, "seed is 7 in the manifest, but 0 follows"),
        ({"questions_sha256": "0" * 64}, "questions_sha256 is '0000"),
        ({"config": {}}, "cannot be checked: method.name is missing"),
        ({"data": {}}, "its manifest has no fingerprint of synth/test"),
        (
            {"prompt": {"first": "other"}},
            "prompt is {'first': 'other'} in the manifest, but {'before': '', 'after': '<think>'} follows",
        ),
        ({"complete": False}, "incomplete, 4 of 4 records; resume the evaluation"),
    ],
)
def test_a_changed_manifest_is_refused(submission: Path, changes: dict[str, Any], sentence: str) -> None:
    folder = evaluation(submission)
    write_manifest(folder, replace(read_manifest(folder), **changes))
    assert any(sentence in problem for problem in check_evaluation(folder).problems), check_evaluation(folder).problems


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": 131072, "mlp_size": 524288}, "asks for more than 100,000,000 numbers"),
        ({"num_layers": 10**9}, "asks for more than 100,000,000 numbers"),
        ({"lora": {"rank": 10**6}}, "asks for more than 100,000,000 numbers"),
        ({"trust_remote_code": True}, "model.trust_remote_code is no setting"),
    ],
)
def test_a_backbone_beyond_every_bound_is_refused_unbuilt(
    submission: Path, changes: dict[str, Any], sentence: str
) -> None:
    folder = evaluation(submission)
    manifest = read_manifest(folder)
    config = manifest.config | {"model": manifest.config["model"] | changes}
    write_manifest(folder, replace(manifest, config=config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert any(sentence in problem for problem in check_evaluation(folder).problems)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_split_beyond_every_bound_is_refused_ungenerated(submission: Path) -> None:
    folder = evaluation(submission)
    manifest = read_manifest(folder)
    config = manifest.config | {"task": manifest.config["task"] | {"num_test": 10**12}}
    write_manifest(folder, replace(manifest, config=config))
    assert any("task.num_test must be <= 1e+06" in problem for problem in check_evaluation(folder).problems)


def test_another_schema_and_cut_lines_are_refused(submission: Path) -> None:
    folder = evaluation(submission)
    with (folder / RECORDS).open("a") as file:
        file.write('{"id": ')
    assert check_evaluation(folder).problems == [f"{folder}: 1 lines are no records; evaluate again"]
    (folder / MANIFEST).write_text("{}")
    assert "is not a latbench manifest" in check_evaluation(folder).problems[0]


def test_what_is_too_large_to_commit_is_refused(submission: Path) -> None:
    folder = evaluation(submission)
    rewrite(folder / RECORDS, 0, text=random.Random(0).randbytes(200_000).hex())
    assert any(
        "bytes, more than 150000; pack it with `gzip -9n" in problem for problem in check_evaluation(folder).problems
    )
    (folder / (RECORDS + ".gz")).write_bytes(gzip.compress((folder / RECORDS).read_bytes()))
    (folder / RECORDS).unlink()
    (folder / TRACE).mkdir()
    problems = check_evaluation(folder).problems
    assert any("bytes, more than 150000; submit fewer samples" in problem for problem in problems)
    assert f"{folder}: trace/ is too large for a submission; remove it" in problems


def test_operations_that_do_not_follow_from_the_records_are_refused(submission: Path) -> None:
    folder = evaluation(submission)
    manifest = read_manifest(folder)
    method = _untrained(parse({"method": "cot"}), manifest)
    assert method is not None
    flops = mean_flops(method, read_evaluation(folder).records)
    names = ("seconds_single", "seconds_full", "reference_single", "reference_full")
    times: dict[str, Any] = {name: [1.0] for name in names}
    facts: Any = {"num_single": 1, "batch_size": 4, "reference": "it", "peak_memory_bytes": None, "hardware": {}}
    measured = CostFile(header=MeasureHeader.of(manifest, seed=0), flops=flops, **times, **facts)
    write_measure(folder, measured)
    assert check_evaluation(folder).problems == []
    write_measure(folder, replace(measured, flops=1.0))
    assert check_evaluation(folder).problems == [
        f"{folder}: flops is 1.0 in cost.json, but {flops} follows from the records"
    ]


@pytest.mark.parametrize("suffix", ["md", "csv", "tex", "html"])
def test_tables_of_other_records_are_refused(submission: Path, suffix: str) -> None:
    path = submission / f"leaderboard.{suffix}"
    path.write_text(path.read_text().replace("75.0", "99.0").replace("0.75", "0.99"))
    problems = check([submission]).problems
    assert len(problems) == 1
    assert f"leaderboard.{suffix} is not what these records give; write it again with --format" in problems[0]


def test_tables_with_published_numbers_or_files_beside_the_page_pass_as_well(submission: Path) -> None:
    leaderboard([submission], ["md", "latex", "html"], submission, reported=True, all_records=True, asked=asked)
    assert check([submission]).problems == []


def test_a_copy_is_refused(submission: Path) -> None:
    folder = evaluation(submission)
    for path in submission.glob("leaderboard.*"):
        path.unlink()
    shutil.copytree(folder, submission / "copy")
    checked = check([submission])
    problems, num_checked = checked.problems, checked.num_evaluations
    assert num_checked == 2
    assert len(problems) == 1
    assert "it has the setting and the seed of" in problems[0]


def test_evaluations_on_the_same_questions_read_them_once(submission: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(evaluation(submission), submission / "copy")
    read: list[EvalConfig] = []

    def counting(settings: EvalConfig) -> Any:
        read.append(settings)
        return questions(settings)

    monkeypatch.setattr("latbench.submission.questions", counting)
    assert check([submission]).num_evaluations == 2
    assert len(read) == 1


def test_a_run_that_starts_from_another_is_remembered_with_the_models_of_both() -> None:
    whole = {"model": {"id": "own"}, "start": {"method": {"name": "cot"}, "start": {"model": {"id": "first"}}}}
    assert list(recorded_passes._models(whole)) == ["own", "first"]


def test_what_passed_before_is_looked_at_again_only_once_it_changes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    top = tmp_path / "built"
    shutil.copytree(built, top)
    looked_at: list[Path] = []
    real = module.check_evaluation

    def counting(folder: Path, read: Any = None) -> Any:
        looked_at.append(folder)
        return real(folder, read)

    monkeypatch.setattr(module, "check_evaluation", counting)
    assert check([top], incremental=True).num_before == 0
    again = check([top], incremental=True)
    assert (again.problems, again.num_before, len(looked_at)) == ([], 1, 1)
    assert again.caveats == check([top], incremental=True, again=True).caveats
    assert len(looked_at) == 2
    (path,) = top.rglob(RECORDS)
    text = path.read_text()
    path.write_text(text.replace('"status": "correct"', '"status": "incorrect"', 1))
    assert check([top], incremental=True).problems, "a changed record"
    assert check([top], incremental=True).problems, "a failure is not recorded"
    path.write_text(text)
    assert check([top], incremental=True).num_before == 1
    monkeypatch.setattr(recorded_passes, "_data_files", lambda: "other data")
    assert check([top], incremental=True).num_before == 0


def test_a_pass_is_that_of_the_own_data_and_python_files_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, first, mine = (tmp_path / name for name in ("rows.jsonl", "first.jsonl", "mine.py"))
    task = {"task": {"name": rows.name, "path": str(rows)}}
    start = {"method": {"name": "cot"}, "task": {"path": str(first)}}
    config = {"model": {"id": "tiny"}, "task": {"name": "synth"}, "start": start, "eval": task}
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / MANIFEST).write_text(json.dumps({"config": config}))
    monkeypatch.setenv(FILES, str(mine))
    keys = {key_of(evaluation)}
    for number, path in enumerate((rows, first, mine, rows), start=2):
        path.write_text("x" * number)
        keys.add(key_of(evaluation))
        assert len(keys) == number
    assert None not in keys
    (evaluation / MANIFEST).write_text(json.dumps({"config": {**config, "eval": [1]}}))
    assert key_of(evaluation) is None


def test_a_pass_that_comes_with_a_submission_is_not_believed(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    top = tmp_path / "built"
    shutil.copytree(built, top)
    assert check([top], incremental=True).num_before == 0
    shutil.move(tmp_path / "cache" / "latbench", top / "latbench")
    assert check([top], incremental=True).num_before == 0


@pytest.mark.slow
def test_several_processes_find_what_one_finds(built: Path, tmp_path: Path) -> None:
    (evaluation,) = (path.parent for path in built.rglob(RECORDS))
    for number in range(5):
        folder = tmp_path / str(number) / evaluation.name
        shutil.copytree(evaluation, folder)
        if number % 2:
            path = folder / RECORDS
            path.write_text(path.read_text().replace('"status": "correct"', '"status": "incorrect"', 1))
    (tmp_path / "leaderboard.md").write_text("| method | accuracy |\n")
    one, two = check([tmp_path]), check([tmp_path], workers=2)
    assert one == two
    assert len([text for text in one.problems if "leaderboard.md is not what these records give" in text]) == 1
    assert len([text for text in one.problems if "status" in text]) == 2
