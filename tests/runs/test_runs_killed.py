"""SIGKILL at random moments: what is resumed ends with the same bits as what was left in peace.

LATBENCH_KILLS sets the number of kills of each command.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

NUM_KILLS = int(os.environ.get("LATBENCH_KILLS", "2"))
MAX_DELAY = 0.4  # seconds: longer than a step, a save, or a chunk's scoring takes
NUM_STEPS, NUM_RECORDS = 60, 192
SETTINGS = ("task.num_train=480", "task.num_test=96", "train.batch_size=8", "train.save_every=5", "train.log_every=1")
DECODING = ("generate.chunk=16", "generate.temperature=1.0", "generate.max_new_tokens=48")

pytestmark = pytest.mark.slow


def command(*arguments: str, settings: tuple[str, ...]) -> list[str]:
    changes = [text for setting in settings for text in ("--set", setting)]
    return [sys.executable, "-m", "latbench", *arguments, *changes]


def train_command(runs_dir: Path) -> list[str]:
    return command("train", "--method", "cot", "--resume", "--runs-dir", str(runs_dir), settings=SETTINGS)


def eval_command(run: Path) -> list[str]:
    return command("eval", str(run), "--samples", "2", settings=DECODING)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def finish_among_kills(arguments: list[str], written: Callable[[], list[Path]], total: int, seed: int) -> None:
    """Kill the command NUM_KILLS times, a random while after it left a random number of lines; then let it end."""
    draws = random.Random(seed)
    codes = []
    for target in sorted(draws.randrange(total + 1) for _ in range(NUM_KILLS)):
        started = time.time_ns()
        process = start(arguments)
        while num_lines(written(), since=started) < target and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draws.uniform(0, MAX_DELAY))
        process.kill()
        process.communicate(timeout=60)
        codes.append(process.returncode)
    assert -signal.SIGKILL in codes  # one near the end may come too late
    finish(arguments)


def num_lines(files: list[Path], since: int) -> int:
    """Lines of the files written to since then: what an earlier process left does not count before this one works."""
    try:
        return sum(path.read_bytes().count(b"\n") for path in files if path.stat().st_mtime_ns > since)
    except FileNotFoundError:  # renamed meanwhile
        return 0


def only_run(runs_dir: Path) -> Path:
    (config,) = runs_dir.glob("*/config.yaml")
    return config.parent


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    files = [path for name in names for path in sorted(folder.glob(name))]
    assert len(files) >= len(names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained and evaluated in peace."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    finish(train_command(runs_dir))
    finish(eval_command(only_run(runs_dir)))
    return only_run(runs_dir)


def test_killed_training_ends_with_the_same_weights_and_log(undisturbed: Path, tmp_path: Path) -> None:
    finish_among_kills(train_command(tmp_path), lambda: list(tmp_path.glob("*/stages/*/log.jsonl")), NUM_STEPS, seed=1)
    expected = contents(undisturbed, "checkpoint/*.safetensors", "stages/*/log.jsonl")
    assert contents(only_run(tmp_path), "checkpoint/*.safetensors", "stages/*/log.jsonl") == expected


def test_a_killed_evaluation_ends_with_the_same_records(undisturbed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / undisturbed.name, ignore=shutil.ignore_patterns("eval"))
    finish_among_kills(eval_command(run), lambda: list(tmp_path.glob("*/eval/*/records.jsonl")), NUM_RECORDS, seed=2)
    records = contents(run, "eval/*/records.jsonl")
    assert records == contents(undisturbed, "eval/*/records.jsonl")
    assert [text.count(b"\n") for text in records.values()] == [NUM_RECORDS]
