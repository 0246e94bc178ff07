"""Trainings in processes of their own: killed at listed moments, or launched with several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from latbench.method import Method
from latbench.training.cost import TrainReport
from latbench.training.stage_trainer import StageTrainer

ROOT = Path(__file__).parents[2]
MethodT = TypeVar("MethodT", bound=Method[Any, Any])


def environment(**variables: str) -> dict[str, str]:
    """Of a process with one thread, whose modules are those of this checkout."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}


def run_script(module: str, *arguments: str) -> str:
    """The last line that a module of the tests prints, run as a script; empty where it prints none."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().rpartition("\n")[2]


def launch(module: str, folder: Path, num_processes: int, **variables: str) -> list[dict[str, Any]]:
    """Run a module with the argument `launched` and return what each process left; nothing where they left early."""
    folder.mkdir(exist_ok=True)
    start = [sys.executable]
    if num_processes > 1:
        # `--cpu` would start a single process; `--multi_gpu` is Accelerate's word for several, on a CPU too
        start += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
        start += ["--main_process_port", "0"]
    command = [*start, "-m", module, "launched", str(folder)]
    done = subprocess.run(command, env=environment(**variables), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(path) for path in sorted(folder.glob("result*.pt"))]


def leave_result(folder: Path, result: dict[str, Any]) -> None:
    """What `launch` returns of this process."""
    torch.save(result, folder / f"result{os.environ.get('RANK', '0')}.pt")


def outcome(method: Method[Any, Any], folder: Path, report: TrainReport) -> dict[str, Any]:
    """All of a training that must be equal bit by bit: weights, logs and traces, counts."""
    files = [*folder.glob("stages/*/log.jsonl"), *folder.glob("stages/*/*traces*")]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in method.state_dict().items()},
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)},
        "counts": asdict(replace(report, seconds=0, peak_memory_bytes=0)),
    }


def kill_at_each(
    moments: Sequence[tuple[str, int]],
    folder: Path,
    *,
    fresh: Callable[[], MethodT],
    train: Callable[..., TrainReport],
    train_until: Callable[[Path, str, int], None],
) -> None:
    """Print `equal` where trainings that are killed at every moment, then resumed, end as the undisturbed one does.

    Args:
        moments: What happens, and at which time it happens the training is killed.
        folder: Each training has a folder in it.
        fresh: Makes the method, always with the same weights.
        train: Trains it in a folder to the end, `train(folder, method, resume=...)`.
        train_until: Trains in a folder until `die` at a moment.
    """

    def finished(here: Path, *, resume: bool) -> dict[str, Any]:
        method = fresh()
        return outcome(method, here, train(here, method, resume=resume))

    undisturbed = finished(folder / "undisturbed", resume=False)
    for number, (what, count) in enumerate(moments):
        here = folder / str(number)
        child = os.fork()
        if child == 0:
            train_until(here, what, count)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{what} {count}: ended before it was killed"
        assert os.WTERMSIG(status) == signal.SIGKILL
        resumed = finished(here, resume=True)
        for part, expected in undisturbed.items():
            assert resumed[part] == expected, f"{what} {count}: {part} differ from those of the undisturbed run"
    print("equal")


def die() -> None:
    """End this process as a lost machine would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at(count: int, act: Callable[[], None]) -> Callable[[], None]:
    """What does nothing but at its call number `count`, where it acts."""
    calls = iter(range(1, count + 1))

    def tick() -> None:
        if next(calls, None) == count:
            act()

    return tick


def after_saved_states(tick: Callable[[], None]) -> None:
    """Call `tick` in the middle of each resume point from now on, when half of it is written."""
    save = StageTrainer._save_rng_state

    def saved(self: StageTrainer, folder: Any) -> None:
        save(self, folder)
        tick()

    StageTrainer._save_rng_state = saved
