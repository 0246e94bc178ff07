"""Sweeps: the grid, what is skipped, failures that stop no other run, the local executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from latbench.cli import main
from latbench.config import ConfigError, tree
from latbench.data import DATA_DIR
from latbench.evaluation.records import MANIFEST
from latbench.runs.lock import locked
from latbench.runs.run import CONFIG, load_run
from latbench.sweeps.child import under
from latbench.sweeps.executor import Job, JobResult, LocalExecutor
from latbench.sweeps.running import run_sweep
from latbench.sweeps.sweep import SweepConfig, members, read_sweep, run_configs
from latbench.util.progress import Reached, read_reached
from latbench.util.signals import handling

BASE = {
    "task": {"num_train": 40, "num_test": 6},
    "train": {"max_steps": 1, "batch_size": 4},
    "generate": {"max_new_tokens": 4},
    "model": {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_size": 16},
}


class InProcess:
    """Runs each job's commands through `main`, as the local executor does in processes."""

    def run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None]) -> list[JobResult]:
        results = []
        for job in jobs:
            code = next((code for command in job.commands if (code := main(command[3:]))), 0)
            results.append(JobResult(job=job, returncode=code, last_line="last"))
            on_end(results[-1])
        return results


def job(folder: Path, name: str, code: str) -> Job:
    return Job(name=name, commands=((sys.executable, "-c", code),), log=folder / f"{name}.log")


def ignore(_result: JobResult) -> None:
    return None


def test_the_grid_is_methods_by_tasks_by_settings_by_seeds() -> None:
    sweep = SweepConfig(methods=["cot", "direct"], base=BASE, seeds=[0, 1], settings=[{}, {"train.lr": 3e-3}])
    configs = run_configs(sweep)
    assert [(config.method_name, config.train.lr, config.seed) for config in configs] == [
        (method, lr, seed) for method in ("cot", "direct") for lr in (1e-3, 3e-3) for seed in (0, 1)
    ]
    assert all(config.train.max_steps == 1 for config in configs)


def test_the_base_may_spell_keys_with_dots() -> None:
    dotted = SweepConfig(methods=["cot"], base={"train": {"lr": 3e-3}, "train.max_steps": 1, "model.words": "synth"})
    nested = SweepConfig(methods=["cot"], base={"train": {"lr": 3e-3, "max_steps": 1}, "model": {"words": "synth"}})
    assert run_configs(dotted) == run_configs(nested)


def test_a_setting_may_be_a_mapping_beside_what_the_grid_says() -> None:
    dotted = SweepConfig(methods=["colar"], base=BASE, settings=[{"method.max_speed": 3}])
    nested = SweepConfig(methods=["colar"], base=BASE, settings=[{"method": {"max_speed": 3}}])
    assert run_configs(dotted) == run_configs(nested)


def test_points_that_differ_in_decoding_alone_share_one_training(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot"], base=BASE, settings=[{}, {"generate.temperature": 1.0}, {"train.lr": 3e-3}])
    first, second = members(sweep, tmp_path)
    assert first.decodings == [{}, {"generate.temperature": 1.0}]
    assert second.decodings == [{}]
    assert len({job.folder for member in (first, second) for job in member.jobs(sweep)}) == 3


def test_all_errors_of_a_grid_are_reported_once() -> None:
    sweep = SweepConfig(methods=["cot", "cott"], base={"train": {"lr": 0}}, seeds=[0, 1])
    with pytest.raises(ConfigError) as caught:
        run_configs(sweep)
    found = str(caught.value).split("\n")
    assert found[0] == "train.lr must be > 0, got 0"
    assert found[1].startswith("unknown method 'cott'; did you mean 'cot'?")
    assert len(found) == 2


def test_a_sweep_file_is_validated_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("methods: []\nseed: [1]\nlimit: 0\n")
    with pytest.raises(ConfigError) as caught:
        read_sweep(path)
    assert {line.split(";")[0] for line in str(caught.value).split("\n")} >= {
        "unknown key 'sweep.seed'",
        "sweep.limit must be >= 1, got 0",
    }
    assert "sweep.methods" in str(caught.value)
    path.write_text("methods: [cot]\nsettings: [{train.lr: 1e-4}]\n")
    assert read_sweep(path).settings == [{"train.lr": 1e-4}]


def test_a_sweep_trains_evaluates_and_skips_what_is_complete(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot", "direct"], base=BASE, settings=[{}, {"generate.temperature": 1.0}])
    ended: list[str] = []
    done = run_sweep(
        sweep, InProcess(), runs_dir=tmp_path, resume=False, on_end=lambda result: ended.append(result.job.name)
    )
    assert len(ended) == len(done.results) == 2
    assert not done.failed
    assert len(list(tmp_path.glob(f"*/eval/*/{MANIFEST}"))) == 4
    again = run_sweep(sweep, InProcess(), runs_dir=tmp_path, resume=False, on_end=ignore)
    assert (again.skipped, again.results) == (ended, [])


def test_a_failed_run_stops_no_other_and_begun_ones_need_resume(tmp_path: Path) -> None:
    sweep = SweepConfig(methods=["cot", "direct"], base=tree.merge(BASE, {"task": {"num_test": 4}}))
    first = members(sweep, tmp_path)[0].run
    (first.folder / "thesis.txt").parent.mkdir()
    (first.folder / "thesis.txt").write_text("mine")
    done = run_sweep(sweep, InProcess(), runs_dir=tmp_path, resume=False, on_end=ignore)
    assert [result.failed for result in done.results] == [True, False]
    (first.folder / "thesis.txt").unlink()
    (first.folder / CONFIG).write_text(tree.dump_yaml(first.config.to_tree()))
    with pytest.raises(ValueError, match=r"1 runs of the sweep are begun but not complete .*; pass --resume"):
        run_sweep(sweep, InProcess(), runs_dir=tmp_path, resume=False, on_end=ignore)
    done = run_sweep(sweep, InProcess(), runs_dir=tmp_path, resume=True, on_end=ignore)
    assert [result.failed for result in done.results] == [False]
    assert len(done.skipped) == 1
    assert load_run(first.folder).is_complete


def test_the_local_executor_reports_each_job_with_log_and_last_line(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "good", "print('fine')"),
        job(tmp_path, "bad", "import sys; print('so far'); sys.exit('error: out of cheese')"),
        Job(
            name="two",
            commands=((sys.executable, "-c", "raise SystemExit(3)"), ("never",)),
            log=tmp_path / "l" / "two.log",
        ),
    ]
    results = LocalExecutor([None]).run(jobs, ignore)
    assert [result.returncode for result in results] == [0, 1, 3]
    assert [result.last_line for result in results[:2]] == ["fine", "error: out of cheese"]
    assert "never" not in (tmp_path / "l" / "two.log").read_text()


def test_a_job_says_how_far_it_has_come(tmp_path: Path) -> None:
    code = (
        "import time; from latbench.util.progress import progress\n"
        "with progress('steps', total=3) as advance:\n"
        f"    advance(3); import pathlib; seen = pathlib.Path({str(tmp_path / 'seen')!r})\n"
        "    while not seen.exists(): time.sleep(0.01)\n"
    )
    reached: list[Reached | None] = []
    task = job(tmp_path, "long", code)

    def look() -> None:
        while (found := read_reached(task.progress)) is None or found.done < 3:
            time.sleep(0.01)
        reached.append(found)
        (tmp_path / "seen").touch()

    thread = threading.Thread(target=look)
    thread.start()
    (result,) = LocalExecutor([None]).run([task], ignore)
    thread.join()
    assert not result.failed
    assert reached == [Reached(what="steps", done=3, total=3)]
    assert not task.progress.exists()


def test_as_many_processes_run_as_there_are_slots_and_each_sees_its_device(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / f'started-{os.getpid()}').touch()\n"
        "while len(list(folder.glob('started-*'))) < 2: time.sleep(0.01)\n"  # ends only beside the other
        "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    results = LocalExecutor(["0", "3"]).run([job(tmp_path, str(index), code) for index in range(2)], ignore)
    assert sorted(result.last_line for result in results) == ["0", "3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_running_processes(tmp_path: Path, number: signal.Signals) -> None:
    started = tmp_path / "started"
    code = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    executor = LocalExecutor([None])

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    handled = handling(signal.SIGINT, signal.default_int_handler)  # also where the tests were started with it ignored
    with handled, pytest.raises(KeyboardInterrupt):
        executor.run([job(tmp_path, "long", code), job(tmp_path, "never", "print(1)")], ignore)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not (tmp_path / "never.log").exists() or "1" not in (tmp_path / "never.log").read_text().splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_the_processes_of_a_killed_sweep_end_with_it(tmp_path: Path) -> None:
    """Nothing of it can hold a lock that the next `--resume` would meet."""
    code = (
        "import os, pathlib, time\n"
        f"from latbench.runs.lock import locked; folder = pathlib.Path({str(tmp_path)!r})\n"
        "with locked(folder / f'run-{os.getpid()}'):\n"
        "    (folder / f'started-{os.getpid()}').touch(); time.sleep(600)"
    )
    sweep = (
        "import sys; from pathlib import Path; from latbench.sweeps.executor import Job, LocalExecutor\n"
        f"commands, folder = ((sys.executable, '-c', {code!r}),), Path({str(tmp_path)!r})\n"
        "jobs = [Job(name=name, commands=commands, log=folder / name) for name in 'ab']\n"
        "LocalExecutor([None, None]).run(jobs, print)"
    )
    process = subprocess.Popen([sys.executable, "-c", sweep], cwd=Path(__file__).parents[2])
    try:
        while len(found := list(tmp_path.glob("started-*"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    numbers = [int(path.name.split("-")[1]) for path in found]
    for _ in range(3000):
        if not any(map(_lives, numbers)):
            break
        time.sleep(0.01)
    assert not any(map(_lives, numbers))
    for number in numbers:
        with locked(tmp_path / f"run-{number}"):
            pass


def _lives(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_command_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    other = under(1, [sys.executable, "-c", "print('begun')"])
    done = subprocess.run(other, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == ((1, "") if sys.platform == "linux" else (0, "begun\n"))
    own = under(os.getpid(), [sys.executable, "-c", "print('begun')"])
    assert subprocess.run(own, capture_output=True, text=True, check=True).stdout == "begun\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluate": ["synth", "synt"]}, "unknown task 'synt'; did you mean 'synth'?"),
        ({"split": "nowhere"}, "task synth has no split 'nowhere'"),
        ({"settings": [{}, {"train.split": "nowhere"}]}, "task synth has no split 'nowhere'"),
        ({"evaluate": ["synth", "gsm8k"]}, "no data for task 'gsm8k', split 'test'"),
        ({"settings": [{"generate.temperature": -1}]}, "generate.temperature must be >= 0, got -1"),
    ],
    ids=["task", "split", "training data", "data of an evaluation", "decoding"],
)
def test_what_can_be_refused_is_refused_before_the_first_step(
    changes: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path / "empty"))
    sweep = SweepConfig(methods=["cot", "direct"], base=BASE, **changes)
    with pytest.raises(ConfigError) as caught:
        run_sweep(sweep, InProcess(), runs_dir=tmp_path / "runs", resume=False, on_end=ignore)
    (found,) = str(caught.value).split("\n")
    assert found.startswith(sentence)
    assert not (tmp_path / "runs").exists()
