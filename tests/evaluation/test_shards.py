"""Shards: parts that join to the bytes of an unsharded evaluation, lost parts, two owners, other divisions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from latbench.cli import main
from latbench.evaluation import evaluate as module
from latbench.evaluation.evaluate import evaluate, is_answered
from latbench.evaluation.job import EvalJob
from latbench.evaluation.join import lost_parts
from latbench.evaluation.records import MANIFEST, RECORDS, SHARDS, read_evaluation, read_manifest, write_manifest
from latbench.evaluation.shards import Shard, owned, parts_in
from latbench.report.leaderboard import find_evaluations
from latbench.runs.lock import is_held, locked
from latbench.runs.run import Run, load_run

CHECKOUT = Path(__file__).parents[2]


def job_of(run: Run, **changes: object) -> EvalJob:
    """Twenty questions in five chunks of four, so that eight shards leave three without any."""
    return EvalJob.of(run, "synth", changes={"generate.chunk": 4, **changes})


@pytest.fixture(scope="module")
def whole(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Records of an evaluation that was not sharded."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained.folder, folder)
    return (evaluate(job_of(load_run(folder))) / RECORDS).read_bytes()


@pytest.mark.parametrize(
    ("count", "order"), [(1, [1]), (2, [2, 1]), (3, [3, 1, 2]), (8, [5, 8, 1, 7, 3, 2, 6, 4])], ids=str
)
@pytest.mark.parametrize("batch", [1, 64])
def test_parts_join_in_any_order_to_the_bytes_of_an_unsharded_evaluation(
    run: Run, whole: bytes, count: int, order: Sequence[int], batch: int
) -> None:
    job = job_of(run, **{"generate.batch_size": batch})
    for number in order:
        assert not is_answered(job)
        assert not list(find_evaluations([run.folder])), "a part is no evaluation"
        assert evaluate(job, Shard(number, count)) == job.folder
    assert (job.folder / RECORDS).read_bytes() == whole
    assert not (job.folder / SHARDS).exists()
    manifest = read_manifest(job.folder)
    assert manifest.complete
    assert manifest.n == manifest.evaluation["answers"] == 20
    assert manifest.evaluation["seconds"] > 0
    assert len(read_evaluation(job.folder).records) == 20
    assert evaluate(job, Shard(1, count)) == evaluate(job) == job.folder  # nothing is left to do


def test_a_part_cut_anywhere_resumes_to_the_same_bytes(run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    job, shard = job_of(run), Shard(1, 2)
    evaluate(job, shard)
    path = shard.folder(job.folder) / RECORDS
    part = path.read_bytes()
    for size in (0, 7, len(part) // 2, len(part) - 1):
        path.write_bytes(part[:size])
        evaluate(job, shard)
        assert path.read_bytes() == part
    monkeypatch.setattr(module, "answer_chunk", lambda *_: pytest.fail("the part is complete"))
    evaluate(job, shard)
    monkeypatch.undo()
    evaluate(job, Shard(2, 2))
    assert (job.folder / RECORDS).read_bytes() == whole


def test_parts_that_were_copied_together_are_joined_without_a_shard(run: Run, whole: bytes, tmp_path: Path) -> None:
    elsewhere = load_run(shutil.copytree(run.folder, tmp_path / "elsewhere" / run.folder.name))
    evaluate(job_of(elsewhere), Shard(2, 2))
    job = job_of(run)
    evaluate(job, Shard(1, 2))
    name = Shard(2, 2).folder(Path())
    shutil.copytree(job_of(elsewhere).folder / name, job.folder / name)
    assert lost_parts(job) == []
    evaluate(job)
    assert (job.folder / RECORDS).read_bytes() == whole


def test_lost_parts_are_named_and_nothing_is_touched(run: Run) -> None:
    job = job_of(run)
    evaluate(job, Shard(2, 3))
    sentence = (
        r"parts 1/3, 3/3 are missing or not complete in .*shards; run eval with --shard 1/3, "
        "copy it from where it was answered, or remove that folder"
    )
    with pytest.raises(ValueError, match=sentence):
        evaluate(job)
    evaluate(job, Shard(3, 3))
    path = Shard(3, 3).folder(job.folder) / RECORDS
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"parts 1/3, 3/3 are missing or not complete"):
        evaluate(job)
    assert not (job.folder / MANIFEST).exists()
    assert parts_in(job.folder) == [Shard(2, 3), Shard(3, 3)]


def test_a_join_that_was_killed_is_repeated(run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from latbench.evaluation import join

    job = job_of(run)
    evaluate(job, Shard(2, 2))
    for name in ("write_whole_bytes", "remove_parts"):
        with monkeypatch.context() as patch:
            patch.setattr(join, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                evaluate(job, Shard(1, 2))
    monkeypatch.setattr(module, "answer_chunk", lambda *_: pytest.fail("all parts are complete"))
    evaluate(job, Shard(1, 2))
    assert (job.folder / RECORDS).read_bytes() == whole
    assert not (job.folder / SHARDS).exists()


def test_two_owners_of_one_shard_are_refused(run: Run) -> None:
    job = job_of(run)
    with (
        owned(job.folder, Shard(1, 2)),
        pytest.raises(ValueError, match=rf"1-of-2 is being written by process {os.getpid()}; wait for it or end it"),
    ):
        evaluate(job, Shard(1, 2))
    with owned(job.folder, Shard(1, 2)):
        evaluate(job, Shard(2, 2))  # two shards do not hinder each other
        with pytest.raises(ValueError, match="1-of-2 is being written by another process"):
            evaluate(job)
    assert not is_held(Shard(1, 2).folder(job.folder))
    with locked(job.folder), pytest.raises(ValueError, match=r"synth-test.* is being written by another process"):
        evaluate(job, Shard(1, 2))


def test_shards_of_another_number_are_refused(run: Run) -> None:
    job = job_of(run)
    evaluate(job, Shard(1, 2))
    sentence = (
        r"shards holds part 1/2, which does not join with parts of 3; go on with 2 shards "
        r"\(--shard I/2 or --shards 2\), or remove that folder"
    )
    with pytest.raises(ValueError, match=sentence):
        evaluate(job, Shard(2, 3))
    shutil.copytree(Shard(1, 2).folder(job.folder), Shard(2, 3).folder(job.folder))
    with pytest.raises(ValueError, match="holds part 2/3, which does not join with parts of 2"):
        evaluate(job)


def test_a_part_of_another_setting_is_refused(run: Run) -> None:
    job, other = job_of(run), job_of(run, **{"generate.temperature": 1.0})
    evaluate(other, Shard(2, 2))
    shutil.copytree(Shard(2, 2).folder(other.folder), Shard(2, 2).folder(job.folder))
    with pytest.raises(ValueError, match=r"2-of-2 holds records of another setting .*; remove the folder"):
        evaluate(job, Shard(1, 2))
    assert parts_in(job.folder) == [Shard(2, 2)]


def test_a_part_of_other_software_is_refused(run: Run) -> None:
    job = job_of(run)
    for number in (1, 2):
        evaluate(job, Shard(number, 3))
    part = Shard(2, 3).folder(job.folder)
    manifest = read_manifest(part)
    write_manifest(part, replace(manifest, versions={**manifest.versions, "torch": "1.0"}))
    with pytest.raises(ValueError, match=r"2-of-3 is of another versions .*; remove it, or .*1-of-3, and answer it"):
        evaluate(job, Shard(3, 3))
    assert not (job.folder / MANIFEST).exists()


def test_an_evaluation_begun_without_shards_is_finished_without(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(run)
    path = evaluate(job) / RECORDS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="begun without shards; finish it without --shard"):
        evaluate(job, Shard(1, 2))
    assert not (job.folder / SHARDS).exists()


@pytest.mark.parametrize("text", ["9/8", "0/8", "8", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_there_is_not_is_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", f"--shard={text}"]) == 2
    assert capsys.readouterr().err == f"error: --shard must be I/N with I from 1 to N, such as 2/8, got {text}\n"


def test_the_command_says_which_parts_are_open(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(run.folder), "--set", "generate.chunk=4"]
    assert main(["eval", *options, "--shard", "2/3"]) == 0
    expected = "synth-test: part 2/3 is done, open are 1/3, 3/3; the last to end joins them\n"
    assert capsys.readouterr().out.endswith(expected)
    assert main(["eval", *options, "--shard", "3/3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["open"][0]["open"] == ["1/3"]
    assert main(["eval", *options, "--shard", "1/3"]) == 0
    assert "accuracy" in capsys.readouterr().out.lower()


@pytest.mark.slow
def test_each_process_of_a_launcher_answers_a_shard(run: Run, whole: bytes) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "latbench", "eval", str(run.folder), "--set", "generate.chunk=4"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("synth-test") == 1, "the main process alone says it"
    assert (job_of(run).folder / RECORDS).read_bytes() == whole
    assert not (job_of(run).folder / SHARDS).exists()
