"""Worker processes that read and compare answers under limits of CPU time and memory, replaced when they exceed them.

The time limit counts the CPU time of the worker, not the clock: how busy the machine is and how many workers there are
changes no verdict. What is read in the calling process is short (`SHORT_CHARS`) and needs no library.

A worker is `python -m latbench.answers.workers` with one JSON line per item on its pipes: nothing of the caller's main
script is imported again, so that pytest, notebooks and console scripts can use the pool alike. It imports no torch.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from latbench.answers.check import quick_verdict, verdict
from latbench.answers.extract import MAX_TEXT_CHARS, AnswerKind, extract
from latbench.task import RunOn, Score, Status

Item = tuple[str, str | None, AnswerKind]  # gold, extracted, kind
Request = tuple[str, str | None, AnswerKind, RunOn | None]  # gold, text or extracted, kind; None: extracted already

SHORT_CHARS = 2000  # of a text that is read in the calling process
MEMORY_BYTES = 2**30  # address space of one worker; sympy and its parser take about a third
START_SECONDS = 120.0  # for the imports, on a loaded machine
NUM_TRIES = 3  # for a worker that was killed from outside
_READY = b"ready\n"
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)


class CheckPool:
    """Verdicts on many answers; workers start when the first item needs one.

    Args:
        num_workers: None takes one per CPU this process may use, at most 8.
        timeout: seconds of CPU time per item; beyond it the item is `timeout` and its worker is replaced.
        memory_bytes: address space of one worker.
    Raises: ValueError: a limit that no item could meet.
    """

    def __init__(self, num_workers: int | None = None, timeout: float = 10.0, memory_bytes: int = MEMORY_BYTES) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers must be >= 1, got {num_workers}; use None for one per CPU")
        if timeout <= 0:
            raise ValueError(f"timeout must be > 0 seconds, got {timeout}; the default is 10")
        self.num_workers = num_workers or min(8, _num_cpus())
        self._workers = [_Worker(timeout, memory_bytes) for _ in range(self.num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers; the pool starts new ones when it is used again."""
        for worker in self._workers:
            worker.kill()

    def check_many(self, items: Sequence[Item]) -> list[Status]:
        """Verdicts on extracted answers, in order; they depend neither on the number of workers nor on each other.

        Raises: RuntimeError: a worker cannot be started.
        """
        verdicts: dict[Item, Status] = {}
        slow: dict[Item, Request] = {}
        for item in dict.fromkeys(items):
            quick = quick_verdict(*item)
            if quick is None:
                slow[item] = (*item, None)
            else:
                verdicts[item] = quick
        answered = self._ask(list(slow.values()))
        verdicts.update((item, score.status) for item, score in zip(slow, answered, strict=True))
        return [verdicts[item] for item in items]

    def score_many(self, pairs: Sequence[tuple[str, str]], kind: AnswerKind, run_on: RunOn = "first") -> list[Score]:
        """Verdicts on (answer text, gold) pairs, in order, with what was extracted from each text.

        Raises: RuntimeError: a worker cannot be started.
        """
        scores: dict[tuple[str, str], Score] = {}
        slow: dict[tuple[str, str], Request] = {}
        for text, gold in dict.fromkeys(pairs):
            if len(text) > SHORT_CHARS:
                slow[text, gold] = (gold, text[-MAX_TEXT_CHARS:], kind, run_on)
                continue
            extracted = extract(text, kind, run_on)
            status = quick_verdict(gold, extracted, kind)
            if status is None:
                slow[text, gold] = (gold, extracted, kind, None)
            else:
                scores[text, gold] = Score(status=status, extracted=extracted)
        scores.update(zip(slow, self._ask(list(slow.values())), strict=True))
        return [scores[pair] for pair in pairs]

    def _ask(self, requests: Sequence[Request]) -> list[Score]:
        """What the workers say to each request."""
        if not requests:
            return []
        with ThreadPoolExecutor(min(self.num_workers, len(requests))) as threads:
            try:
                return list(threads.map(self._check, requests))
            except BaseException:  # also Ctrl-C: do not wait for items that have not begun
                threads.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def _check(self, request: Request) -> Score:
        worker = self._idle.get()
        try:
            return worker.check(request)
        finally:
            self._idle.put(worker)


@cache
def shared_pool() -> CheckPool:
    """The pool that tasks share, closed when the process ends."""
    pool = CheckPool()
    atexit.register(pool.close)
    return pool


class _Worker:
    """One worker process, started when needed."""

    def __init__(self, timeout: float, memory_bytes: int) -> None:
        self.timeout = timeout
        self.memory_bytes = memory_bytes
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # kill() may come from another thread

    def check(self, request: Request) -> Score:
        """The verdict on one item; `timeout` where it ends the worker by exceeding a limit.

        A worker that something else killed, as a machine short of memory does, is replaced and asked once more.
        """
        for _ in range(NUM_TRIES):
            line, ended_by = self._answer(request)
            if line.endswith(b"\n"):
                status, extracted = json.loads(line)
                return Score(status=status, extracted=extracted)
            if ended_by not in _FROM_OUTSIDE:
                break
        return Score(status="timeout", extracted=request[1] if request[3] is None else None)

    def _answer(self, request: Request) -> tuple[bytes, int]:
        """The reply, or what there was of it when the worker ended, and the exit code of a worker that ended."""
        process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout, None)
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return line, 0
        code = process.wait()
        self.kill()
        return line, code

    def kill(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        package_root = str(Path(__file__).resolve().parents[2])  # an uninstalled checkout must be importable too
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "latbench.answers.workers", str(self.memory_bytes), str(self.timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
        )
        with self._lock:
            self.process = process
        assert process.stdout is not None
        if _read_line(process.stdout, START_SECONDS) != _READY:
            self.kill()
            raise RuntimeError(
                "an answer-checking worker did not start; try `python -m latbench.answers.workers` to see why, "
                f"or give it more memory than {self.memory_bytes} bytes"
            )
        return process


def _read_line(stream: IO[bytes], seconds: float | None) -> bytes:
    """One line from a pipe; what had come by then when the time is up or the pipe closes."""
    line, descriptor = b"", stream.fileno()
    deadline = None if seconds is None else time.monotonic() + seconds
    while not line.endswith(b"\n"):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([descriptor], [], [], left)
        part = os.read(descriptor, 65536) if ready else b""
        if not part:
            break
        line += part
    return line


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(memory_bytes: int = MEMORY_BYTES, timeout: float = 10.0) -> None:
    """The worker's side: answer JSON lines from stdin until it closes.

    The kernel ends the worker when it has spent its CPU time on one item, also deep inside C code (the default action
    of SIGPROF). So a worker whose parent was killed ends as well: by the closed pipe, or in the middle of an item.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    verdict(r"\int x", r"\int y", "math")  # import and warm up Math-Verify before the clock runs
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    replies.write(_READY)
    replies.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, timeout)
        gold, answer, kind, run_on = json.loads(line)
        extracted = answer if run_on is None else extract(answer, kind, run_on)
        status = verdict(gold, extracted, kind)  # MemoryError ends the worker, hence `timeout`
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps([status, extracted]).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    serve(*(convert(value) for convert, value in zip((int, float), sys.argv[1:], strict=False)))
