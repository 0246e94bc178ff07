"""Evaluations whose shards are jobs: what travels, how they are joined, what a failed one costs; without a cluster."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import latbench
from latbench.cli import main
from latbench.config import ConfigError, tree
from latbench.evaluation.evaluate import evaluate, is_answered
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import MANIFEST, RECORDS, SHARDS, read_manifest, write_manifest
from latbench.evaluation.shards import Shard
from latbench.runs.run import TRAIN, Run, load_run
from latbench.sweeps import places
from latbench.sweeps.executor import Job, JobResult, LocalExecutor, every, in_order
from latbench.sweeps.running import run_sweep
from latbench.sweeps.sharded import eval_command, evaluate_in_shards, num_shards, shard_jobs, target_options
from latbench.sweeps.sweep import SweepConfig, members

CHUNKS: dict[str, Any] = {"generate.chunk": 4}  # the twenty questions are five chunks
BASE: dict[str, Any] = {
    "task": {"num_train": 40, "num_test": 6},
    "train": {"max_steps": 1, "batch_size": 4},
    "generate": {"max_new_tokens": 4, "chunk": 2},
    "model": {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_size": 16},
}


@dataclass
class Elsewhere:
    """Runs each job in a folder of its own, as a node that shares no disk: what a job reads travels there, what it
    writes comes back, and nothing else.
    """

    work: Path
    """Where these folders are made."""
    failing: set[str] = field(default_factory=set)
    """Names of jobs whose node breaks before their first command."""
    ran: list[str] = field(default_factory=list)
    """Names of the jobs that were run."""

    def run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None]) -> list[JobResult]:
        results: dict[str, JobResult] = {}
        self._run(jobs, on_end, results)
        return in_order(jobs, results)

    def _run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None], results: dict[str, JobResult]) -> None:
        for job in reversed(jobs):  # the order is nobody's promise
            code = 1 if job.name in self.failing else self._answer(job)
            results[job.name] = JobResult(job=job, returncode=code, last_line="error: no more" if code else "well")
            on_end(results[job.name])
            if not code:
                self._run(job.then, on_end, results)

    def _answer(self, job: Job) -> int:
        assert job.root is not None
        self.ran.append(job.name)
        node = self.work / job.name
        for name in (*job.reads, *job.paths):
            _copy(job.root / name, node / name)
        commands = [[part.replace(str(job.root), str(node)) for part in command[3:]] for command in job.commands]
        code = next((code for command in commands if (code := main(command))), 0)
        for name in job.paths:
            _copy(node / name, job.root / name)
        shutil.rmtree(node)
        return code


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock", ".owner"))
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def ignore(_result: JobResult) -> None:
    return None


def job_of(run: Run, **changes: object) -> EvalJob:
    return EvalJob.of(run, "synth", changes={**CHUNKS, **changes})


def command_of(run: Run, **changes: object) -> tuple[str, ...]:
    return eval_command(target_options(run), ["synth"], split="test", limit=None, changes={**CHUNKS, **changes})


@pytest.fixture(scope="module")
def whole(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Records of an evaluation that was not sharded."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained.folder, folder)
    return (evaluate(job_of(load_run(folder))) / RECORDS).read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_that_come_back_join_to_the_bytes_of_an_unsharded_evaluation(
    run: Run, whole: bytes, count: int, tmp_path: Path
) -> None:
    job, nodes = job_of(run), Elsewhere(tmp_path / "nodes")
    before = _files(run)
    assert evaluate_in_shards([job], command_of(run), count, nodes, ignore) == []
    assert len(nodes.ran) == min(count, 5), "there are no more shards than chunks"
    assert (job.folder / RECORDS).read_bytes() == whole
    manifest = read_manifest(job.folder)
    assert manifest.complete
    assert manifest.evaluation["answers"] == 20
    assert not (job.folder / SHARDS).exists()
    assert _files(run) == before | {job.folder / RECORDS, job.folder / MANIFEST}
    assert evaluate_in_shards([job], command_of(run), count, nodes, ignore) == []
    assert len(nodes.ran) == min(count, 5), "what is complete is not answered again"


def _files(run: Run) -> set[Path]:
    return {path for path in run.folder.rglob("*") if path.is_file() and path.name not in (".lock", ".owner")}


def test_a_shard_that_fails_costs_nothing_but_itself(run: Run, whole: bytes, tmp_path: Path) -> None:
    job, broken = job_of(run), f"{run.folder.name}.2-of-3"
    nodes = Elsewhere(tmp_path / "nodes", failing={broken})
    (failed,) = evaluate_in_shards([job], command_of(run), 3, nodes, ignore)
    assert (failed.job.name, failed.last_line) == (broken, "error: no more")
    assert not is_answered(job)
    parts = {shard: (shard.folder(job.folder) / RECORDS) for shard in Shard(1, 3).all}
    kept = {shard: path.read_bytes() for shard, path in parts.items() if path.exists()}
    assert set(kept) == {Shard(1, 3), Shard(3, 3)}
    with pytest.raises(ValueError, match=r"holds part 1/3, which does not join with parts of 2; go on with 3 shards"):
        evaluate_in_shards([job], command_of(run), 2, nodes, ignore)
    assert {shard: parts[shard].read_bytes() for shard in kept} == kept
    nodes.failing.clear()
    assert evaluate_in_shards([job], command_of(run), 3, nodes, ignore) == []
    assert (job.folder / RECORDS).read_bytes() == whole


def test_a_part_of_other_software_is_not_joined_and_stays(run: Run, tmp_path: Path) -> None:
    class Older(Elsewhere):
        def _answer(self, job: Job) -> int:
            code = super()._answer(job)
            part = Shard(2, 2).folder(job_of(run).folder)
            if (part / MANIFEST).exists():
                manifest = read_manifest(part)
                write_manifest(part, replace(manifest, versions={**manifest.versions, "torch": "1.0"}))
            return code

    with pytest.raises(ValueError, match=r"2-of-2 is of another versions .*; remove it, or .*1-of-2, and answer it"):
        evaluate_in_shards([job_of(run)], command_of(run), 2, Older(tmp_path / "nodes"), ignore)
    assert (Shard(1, 2).folder(job_of(run).folder) / RECORDS).exists()


def test_the_command_answers_in_jobs(
    run: Run, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = Elsewhere(tmp_path / "nodes")
    monkeypatch.setattr(places, "LocalExecutor", lambda _: nodes)
    ask = ["eval", str(run.folder), "--tasks", "synth", "--set", "generate.chunk=4"]
    nodes.failing = {f"{run.folder.name}.1-of-3"}
    assert main([*ask, "--shards", "3"]) == 1
    assert f"failed: {run.folder.name}.1-of-3: error: no more (log: " in capsys.readouterr().err
    nodes.failing.clear()
    assert main([*ask, "--shards", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["evaluations"][0]["n"] == 20
    assert f"{run.folder.name}.1-of-3: done" in err
    assert (job_of(run).folder / RECORDS).read_bytes() == whole


def test_python_answers_in_jobs(run: Run, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Elsewhere(tmp_path / "nodes", failing={f"{run.folder.name}.2-of-2"})
    monkeypatch.setattr(places, "LocalExecutor", lambda _: nodes)
    ask: dict[str, Any] = {"settings": CHUNKS, "shards": 2, "runs_dir": run.folder.parent}
    with pytest.raises(RuntimeError, match=rf"{run.folder.name}.2-of-2 has failed: error: no more \(log: "):
        latbench.evaluate(run.folder.name, "synth", **ask)
    nodes.failing.clear()
    result = latbench.evaluate(run.folder.name, "synth", **ask)
    assert (result.folder / RECORDS).read_bytes() == whole
    with pytest.raises(ValueError, match=r"\Aaddress, gpus_per_job and cpus_per_job .*; add executor=\"ray\"\Z"):
        latbench.evaluate(run, "synth", shards=2, address="a:1")
    with pytest.raises(ValueError, match=r"\Aexecutor, jobs and the options .*; add shards N\Z"):
        latbench.evaluate(run, "synth", executor="ray")
    with pytest.raises(ValueError, match=r"\Ashards must be >= 1, got 0\Z"):
        latbench.evaluate(run, "synth", shards=0)
    with pytest.raises(ValueError, match=r"\Aexecutor must be local or ray, got 'dask'\Z"):
        latbench.evaluate(run, "synth", shards=2, executor="dask")


def test_python_sweeps_take_what_the_command_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Elsewhere(tmp_path / "nodes")
    monkeypatch.setattr(places, "LocalExecutor", lambda slots: nodes if len(slots) == 3 else None)
    content = {"methods": ["cot"], "base": BASE}
    where: dict[str, Any] = {"runs_dir": tmp_path / "runs"}
    planned = latbench.sweep(content, dry_run=True, limit=4, **where)
    assert (len(planned.runs), planned.num_evaluations, planned.num_answers) == (1, 1, 4)
    assert not where["runs_dir"].exists()
    report = latbench.sweep(content, limit=4, shards=2, jobs=3, **where)
    assert [result.returncode for result in report.results] == [0]
    assert len(nodes.ran) == 3, "one training, two shards"
    (records,) = _records(where["runs_dir"]).values()
    assert len(records.splitlines()) == 4
    for wrong, sentence in {
        "limit": r"\Asweep.limit must be >= 1, got 0\Z",
        "shards": r"\Ashards must be >= 1, got 0\Z",
        "jobs": r"\Ajobs must be >= 1, got 0\Z",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            latbench.sweep(content, **(where | {wrong: 0}))
    with pytest.raises(ValueError, match=r"\Ajobs is for this machine; a Ray cluster runs as many as gpus_per_job and"):
        latbench.sweep(content, executor="ray", jobs=2, **where)


def test_a_model_as_it_comes_is_answered_in_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Elsewhere(tmp_path / "nodes")
    monkeypatch.setattr(places, "LocalExecutor", lambda _: nodes)
    sizes = [f"--set=model.{key}={value}" for key, value in BASE["model"].items()]
    ask = ["eval", "--model", "tiny", "--method", "cot", "--tasks", "synth", "--limit", "6", *sizes]
    ask += ["--set=generate.chunk=2", "--set=generate.max_new_tokens=4"]
    assert main([*ask, "--runs-dir", str(tmp_path / "whole")]) == 0
    assert main([*ask, "--runs-dir", str(tmp_path / "runs"), "--shards", "3"]) == 0
    assert len(nodes.ran) == 3
    (one,), (other,) = (sorted((tmp_path / name).glob("*/eval/*/records.jsonl")) for name in ("whole", "runs"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shards", "2", "--shard", "1/2"], "--shards 2 starts a job for each shard, but this process answers 1/2"),
        (["--jobs", "2"], "--executor, --jobs and the options of Ray belong to an evaluation in jobs; add"),
        (["--executor", "ray"], "--executor, --jobs and the options of Ray belong to an evaluation in jobs; add"),
        (["--shards", "2", "--address", "a:1"], "--address, --gpus-per-job and --cpus-per-job are for a Ray cluster"),
        (["--shards", "2", "--executor", "ray", "--jobs", "2"], "--jobs is for this machine; a Ray cluster"),
    ],
    ids=["shard", "jobs", "executor", "address", "jobs on ray"],
)  # fmt: skip
def test_options_that_do_not_go_together_are_one_sentence(
    run: Run, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run.folder), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not job_of(run).folder.parent.exists()


def test_a_sweep_trains_once_and_answers_in_shards(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot", "direct"], base=BASE, settings=[{}, {"generate.temperature": 1.0}])
    nodes, ended = Elsewhere(tmp_path / "nodes"), list[str]()
    done = run_sweep(
        sweep,
        nodes,
        runs_dir=tmp_path / "runs",
        resume=False,
        shards=2,
        on_end=lambda result: ended.append(result.job.name),
    )
    names = [member.run.folder.name for member in members(sweep, tmp_path / "runs")]
    assert sorted(ended) == sorted(names)
    assert [result.job.name for result in done.results] == names
    assert not done.failed
    assert sorted(nodes.ran) == sorted([*names, *(f"{name}.{number}-of-2" for name in names for number in (1, 2))])
    plain = Elsewhere(tmp_path / "nodes")
    run_sweep(sweep, plain, runs_dir=tmp_path / "plain", resume=False, on_end=ignore)
    assert plain.ran == names[::-1]
    sharded, unsharded = (_records(tmp_path / folder) for folder in ("runs", "plain"))
    assert len(sharded) == 4
    assert sharded == unsharded
    again = run_sweep(sweep, nodes, runs_dir=tmp_path / "runs", resume=False, shards=2, on_end=ignore)
    assert (again.skipped, again.results) == (names, [])


def _records(runs_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(runs_dir)): path.read_bytes() for path in runs_dir.glob("*/eval/*/records.jsonl")}


def test_a_failed_shard_of_a_sweep_is_answered_with_resume(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot"], base=BASE)
    (name,) = [member.run.folder.name for member in members(sweep, tmp_path)]
    nodes = Elsewhere(tmp_path / "nodes", failing={f"{name}.3-of-3"})
    (failed,) = run_sweep(sweep, nodes, runs_dir=tmp_path, resume=False, shards=3, on_end=ignore).failed
    assert (failed.job.name, failed.last_line) == (name, "error: no more")
    assert failed.job.log.name == f"{name}.3-of-3.log"
    trained = (tmp_path / name / TRAIN).read_bytes()
    nodes.ran.clear()
    with pytest.raises(ValueError, match="which does not join with parts of 2; go on with 3 shards"):
        run_sweep(sweep, nodes, runs_dir=tmp_path, resume=True, shards=2, on_end=ignore)
    assert not nodes.ran, "refused before the first job"
    nodes.failing.clear()
    done = run_sweep(sweep, nodes, runs_dir=tmp_path, resume=True, shards=3, on_end=ignore)
    assert not done.failed
    assert f"{name}.3-of-3" in nodes.ran
    assert name not in nodes.ran, "nothing is trained twice"
    assert (tmp_path / name / TRAIN).read_bytes() == trained
    assert len(_records(tmp_path)) == 1


def test_the_shards_of_a_run_whose_training_failed_never_begin(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot", "direct"], base=BASE)
    first, second = (member.run.folder.name for member in members(sweep, tmp_path))
    nodes = Elsewhere(tmp_path / "nodes", failing={first})
    done = run_sweep(sweep, nodes, runs_dir=tmp_path, resume=False, shards=2, on_end=ignore)
    assert [(result.job.name, result.failed) for result in done.results] == [(first, True), (second, False)]
    assert not any(name.startswith(first) for name in nodes.ran)


def test_a_sweep_that_trains_on_a_map_of_devices_is_refused_before_the_first_job(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot"], base=tree.merge(BASE, {"model": {"device_map": "auto"}}), seeds=[0, 1])
    with pytest.raises(ConfigError, match=r"\Amodel.device_map is 'auto', which is for inference[^\n]*\Z"):
        run_sweep(sweep, Elsewhere(tmp_path / "nodes"), runs_dir=tmp_path / "runs", resume=False, on_end=ignore)
    assert not (tmp_path / "runs").exists()


def test_what_follows_a_job_begins_once_it_has_ended_well_and_before_what_waits(tmp_path: Path) -> None:
    def job(name: str, code: int, then: tuple[Job, ...] = ()) -> Job:
        command = (sys.executable, "-c", f"exit({code})")
        return Job(name=name, commands=(command,), log=tmp_path / f"{name}.log", then=then)

    jobs = [job("a", 0, (job("a1", 0), job("a2", 0))), job("b", 3, (job("b1", 0),)), job("c", 0)]  # fmt: skip
    ended: list[str] = []
    results = LocalExecutor([None]).run(jobs, lambda result: ended.append(result.job.name))
    assert ended == ["a", "a1", "a2", "b", "c"]
    assert [result.job.name for result in results] == ended
    assert [one.name for one in every(jobs)] == ["a", "a1", "a2", "b", "b1", "c"]


def test_shards_are_as_many_as_asked_for_and_no_more_than_chunks(run: Run) -> None:
    assert [num_shards([job_of(run)], wanted) for wanted in (1, 4, 5, 9)] == [1, 4, 5, 5]
    (first, *_others) = _jobs(run)
    assert first.paths == (f"{run.folder.name}/eval/{job_of(run).folder.name}/shards/1-of-3",)
    assert all(not name.endswith("eval") for name in first.reads)


def _jobs(run: Run) -> Iterator[Job]:
    yield from shard_jobs([job_of(run)], [command_of(run)], 3)
