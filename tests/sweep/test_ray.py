"""Sweeps on a Ray cluster: three nodes in one machine, of which one is killed; what is refused before the first job."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latbench.cli import main
from latbench.config import tree
from latbench.data import DATA_DIR
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import RECORDS, SHARDS
from latbench.runs.run import TRAIN, Run, load_run, run_folders
from latbench.sweeps.executor import Job, JobResult
from latbench.sweeps.running import run_sweep
from latbench.sweeps.sharded import eval_command, evaluate_in_shards, target_options
from latbench.sweeps.sweep import SweepConfig
from latbench.util.signals import handling

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
BASE = {
    "task": {"num_train": 40, "num_test": 6},
    "train": {"max_steps": 2, "batch_size": 4},
    "generate": {"max_new_tokens": 4},
    "model": {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_size": 16},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU each, the first of them the head."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own in its place
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CHECKOUT))
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.delenv(DATA_DIR, raising=False)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
        ray.shutdown()
        started.shutdown()
    signal.signal(signal.SIGTERM, before)


def executor(cluster: Any, **options: Any) -> Any:
    from latbench.sweeps.ray_executor import RayExecutor

    return RayExecutor(cluster.address, **options)


def ignore(_result: JobResult) -> None:
    return None


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_sweep_survives_the_death_of_a_node(cluster: Any, tmp_path: Path) -> None:
    """Six runs, whose files travel: no disk is shared."""
    sweep = SweepConfig(methods=["cot"], base=BASE, seeds=[*range(6)])
    last = cluster.list_all_nodes()[-1]
    ended: list[str] = []

    def kill() -> None:  # as soon as each node has begun with a job
        while sum(b"$ " in log.read_bytes() for log in (tmp_path / "logs").glob("*.log")) < 3:
            time.sleep(0.05)
        cluster.remove_node(last, allow_graceful=False)

    killer = in_background(kill)
    done = run_sweep(
        sweep,
        executor(cluster, shared=False),
        runs_dir=tmp_path,
        resume=False,
        on_end=lambda result: ended.append(result.job.name),
    )
    killer.join()
    cluster.add_node(num_cpus=1)
    assert not done.failed, [result.last_line for result in done.failed]
    assert sorted(ended) == sorted(folder.name for folder in run_folders(tmp_path))
    assert len(ended) == 6
    logs = [log.read_text() for log in (tmp_path / "logs").glob("*.log")]
    assert sum("lost: the node of this job has died" in log for log in logs) == 1
    assert [log.count(" steps, ") for log in logs] == [1] * 6, "each run was trained to its end once"
    assert len(list(tmp_path.glob("*/eval/*/records.jsonl"))) == 6
    again = run_sweep(sweep, executor(cluster), runs_dir=tmp_path, resume=False, on_end=ignore)
    assert len(again.skipped) == 6
    left = [path.name for path in (tmp_path / "logs").iterdir() if path.suffix not in (".log", ".yaml")]
    assert left == [], "no progress, token or half of a folder"


def test_a_node_that_dies_in_the_middle_costs_its_shard_alone(cluster: Any, trained: Run, tmp_path: Path) -> None:
    """Three shards on three nodes, whose files travel: no disk is shared."""
    changes = {"task.num_test": 36, "generate.chunk": 1, "generate.max_new_tokens": 150}
    run = load_run(shutil.copytree(trained.folder, tmp_path / "runs" / trained.folder.name))
    alone = load_run(shutil.copytree(trained.folder, tmp_path / "alone" / trained.folder.name))
    whole = (evaluate(EvalJob.of(alone, "synth", changes=changes)) / RECORDS).read_bytes()
    cluster.remove_node(cluster.list_all_nodes()[-1])
    (disk := tmp_path / "disk").mkdir()
    last = cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(disk)})
    answered: list[int] = []

    def kill() -> None:  # once it has a few of the twelve answers of its shard
        while (number := sum(path.read_bytes().count(b"\n") for path in disk.rglob(RECORDS))) < 3:
            time.sleep(0.01)
        cluster.remove_node(last, allow_graceful=False)
        answered.append(number)

    killer = in_background(kill)
    job = EvalJob.of(run, "synth", changes=changes)
    command = eval_command(target_options(run), ["synth"], split="test", limit=None, changes=changes)
    ended: list[str] = []
    failed = evaluate_in_shards(
        [job], command, 3, executor(cluster, shared=False), lambda result: ended.append(result.job.name)
    )
    killer.join()
    cluster.add_node(num_cpus=1)
    assert not failed, [result.last_line for result in failed]
    assert 3 <= answered[0] < 12, "the node died in the middle of its shard"
    assert sorted(ended) == [f"{run.folder.name}.{number}-of-3" for number in (1, 2, 3)]
    logs = sorted((run.folder.parent / "logs").iterdir())
    assert [path.suffix for path in logs] == [".log"] * 3, "no progress, token or half of a folder"
    texts = [path.read_text() for path in logs]
    assert sorted(text.count("lost: the node of this job has died") for text in texts) == [0, 0, 1]
    assert sorted(text.count("$ ") for text in texts) == [1, 1, 2], "its shard alone was begun again"
    assert (job.folder / RECORDS).read_bytes() == whole
    assert not (job.folder / SHARDS).exists()


def test_the_command_answers_shards_on_a_cluster(
    cluster: Any, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes that see the folder work in it; the process that ends last joins the parts."""
    executor(cluster)  # connects
    ask = ["eval", str(run.folder), "--set", "generate.chunk=8", "--shards", "2", "--executor", "ray"]
    assert main([*ask, "--address", cluster.address, "--gpus-per-job", "2"]) == 2
    assert "each job asks for 2 GPUs, but no node of the cluster has more than 0; lower" in capsys.readouterr().err
    assert not (run.folder / "eval").exists()
    assert main([*ask, "--address", cluster.address]) == 0
    assert f"{run.folder.name}.2-of-2: done" in capsys.readouterr().err
    (records,) = run.folder.glob(f"eval/*/{RECORDS}")
    assert len(records.read_bytes().splitlines()) == 20


def test_a_shared_folder_is_worked_in_and_nothing_is_copied(cluster: Any, tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), file=open(sys.argv[1] + '/a/here', 'w')); print('done on', 3)"
    (tmp_path / "a").mkdir()
    command = (sys.executable, "-c", code, str(tmp_path))
    job = Job(name="a", commands=(command,), log=tmp_path / "a.log", root=tmp_path, paths=("a",))
    (result,) = executor(cluster).run([job], ignore)
    assert (result.returncode, result.last_line) == (0, "done on 3")
    assert (tmp_path / "a" / "here").read_text().strip() == os.getcwd()


def test_files_travel_to_a_node_and_back(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "old").write_bytes(b"x" * (40 << 20))
    (tmp_path / "a" / "gone").write_text("")
    code = (
        "import sys, pathlib; folder = pathlib.Path(sys.argv[1]); print(folder); (folder / 'gone').unlink()\n"
        "(folder / 'new').write_bytes((folder / 'deep' / 'old').read_bytes()[:20 << 20]); sys.exit('error: at last')"
    )
    command = (sys.executable, "-c", code, str(tmp_path / "a"))
    job = Job(name="a", commands=(command, command), log=tmp_path / "a.log", root=tmp_path, paths=("a",))
    (result,) = executor(cluster, shared=False).run([job], ignore)
    assert (result.returncode, result.last_line) == (1, "error: at last")
    assert (tmp_path / "a" / "new").stat().st_size == 20 << 20
    assert not (tmp_path / "a" / "gone").exists()
    assert f"\n{tmp_path}" not in (tmp_path / "a.log").read_text()


def test_interrupted_jobs_leave_what_can_be_resumed(cluster: Any, tmp_path: Path) -> None:
    base = tree.merge(BASE, {"train": {"max_steps": 100_000, "epochs": 100_000, "save_every": 1000}})
    sweep = SweepConfig(methods=["cot"], base=base)

    def interrupt() -> None:
        while not list((tmp_path / "logs").glob("*.progress")):
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    in_background(interrupt)
    with handling(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, executor(cluster), runs_dir=tmp_path, resume=False, on_end=ignore)
    (run,) = run_folders(tmp_path)
    assert not (run / TRAIN).exists()
    assert list(run.glob("stages/*/checkpoint-*/trainer_state.json")), "training stopped at a whole step"
    with pytest.raises(ValueError, match="pass --resume"):
        run_sweep(sweep, executor(cluster), runs_dir=tmp_path, resume=False, on_end=ignore)


def test_what_a_cluster_cannot_do_is_refused_before_the_first_job(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("methods: [cot]\n")
    command = ["sweep", str(file), "--runs-dir", str(tmp_path / "runs")]
    executor(cluster)  # connects
    ask = [*command, "--executor", "ray", "--address", cluster.address]
    assert main([*ask, "--gpus-per-job", "2"]) == 2
    assert "each job asks for 2 GPUs, but no node of the cluster has more than 0; lower" in capsys.readouterr().err
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    node = cluster.add_node(num_cpus=1, env_vars={DATA_DIR: "/nowhere/data"})
    assert main(ask) == 2
    assert "has no data folder /nowhere/data; copy it there, or set LATBENCH_DATA_DIR" in capsys.readouterr().err
    cluster.remove_node(node)
    assert not list((tmp_path / "runs").glob("*/config.yaml"))


def test_an_address_without_a_cluster_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray.shutdown()
    file = tmp_path / "sweep.yaml"
    file.write_text("methods: [cot]\n")
    command = ["sweep", str(file), "--runs-dir", str(tmp_path / "runs")]
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        in_background(other.serve_forever)
        for address in ("127.0.0.1:1", "127.0.0.1:99999", "nonsense", f"127.0.0.1:{other.server_port}"):
            assert main([*command, "--executor", "ray", "--address", address]) == 2
            sentence = f"error: no Ray cluster answers at {address}; start one there with"
            assert capsys.readouterr().err.splitlines()[-1].startswith(sentence)
        other.shutdown()
    assert main([*command, "--address", "127.0.0.1:1"]) == 2
    assert "add --executor ray" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
