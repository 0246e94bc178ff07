"""The pool: limits hold, workers are replaced, results depend on nothing but the item."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latbench.answers import workers
from latbench.answers.extract import extract
from latbench.answers.workers import CheckPool, Item, shared_pool
from latbench.task import Score
from tests.answers.answer_rows import ROWS

EASY: Item = (r"\frac12", r"\int_0^1 x\,dx", "math")  # left to Math-Verify
ENDLESS: Item = (r"\sqrt{7}", r"\int_0^{9^{9^{9^9}}} x\,dx", "math")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool() -> Iterator[CheckPool]:
    with CheckPool(1, timeout=30.0) as shared:
        yield shared


def pids(pool: CheckPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers if worker.process is not None]


def test_pool_agrees_with_the_table_for_any_number_of_workers(pool: CheckPool) -> None:
    items: list[Item] = [(row[0], extract(row[1], kind), kind) for kind, row in ROWS[::3]]
    with CheckPool(2, timeout=30.0) as two:
        assert pool.check_many(items) == two.check_many(items) == [row[2] for _, row in ROWS[::3]]


def test_numbers_start_no_worker() -> None:
    with CheckPool(2) as pool:
        statuses = pool.check_many(
            [("5", "5", "number"), ("5", "6", "math"), ("5", None, "math"), ("5", "x = 5", "math")]
        )
        assert statuses == ["correct", "incorrect", "no_answer", "correct"]
        assert pids(pool) == []


def test_empty_batch_is_empty(pool: CheckPool) -> None:
    assert pool.check_many([]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [r"\int_0^{9^{9^{9^9}}} x\,dx", "100000!!", r"\gcd(((((9!)!)!)!)!, 2)", r"\frac{" * 100 + "1" + "}{2}" * 100],
)
def test_endless_item_is_a_timeout_and_its_worker_is_replaced(answer: str) -> None:
    with CheckPool(1, timeout=1.5) as pool:
        pool.check_many([EASY])
        first = pids(pool)
        assert pool.check_many([(r"\sqrt{7}", answer, "math")]) == ["timeout"]
        assert pool.check_many([EASY]) == ["correct"]
        assert pids(pool) != first


@pytest.mark.parametrize(
    "answer",
    [
        "{" * 10_000 + "5" + "}" * 10_000,
        "9" * 10**7,
        "(" * 900 + "x" + ")" * 900,
        "\x005\x00x",
        "\ud800 x",
        "__import__('os').system('touch x')",
        ",".join("x" * 900),
        r"\begin{pmatrix}" + "1&" * 400 + r"1\end{pmatrix}",
    ],
    ids=["braces", "digits", "brackets", "null bytes", "surrogate", "code", "list", "matrix"],
)
def test_hostile_item_is_wrong_and_harms_no_neighbour(pool: CheckPool, answer: str) -> None:
    assert pool.check_many([EASY, (r"\sqrt{7}", answer, "math"), EASY]) == ["correct", "incorrect", "correct"]


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "((((9!)!)!)!)!", "(x+1)^{100000}", r"\log 9^{9^{9^9}}"])
def test_values_too_large_to_compute_are_wrong_without_a_worker(answer: str) -> None:
    with CheckPool(1) as pool:
        assert pool.check_many([(r"\sqrt{7}", answer, "math"), ("x+2", answer, "math")]) == ["incorrect"] * 2
        assert pids(pool) == []


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_number_of_workers_or_the_load() -> None:
    """The last item needs a large part of its CPU time, so that a limit on the clock would strike on a busy machine."""
    answers = [r"\int_0^{9^{9^{9^9}}} x\,dx", "100000!!", r"\gcd(((((9!)!)!)!)!, 2)", r"\gcd(20000!, 7)"]
    items: list[Item] = [(r"\sqrt{7}", answer, "math") for answer in answers]
    with CheckPool(1, timeout=2.0) as one, CheckPool(4, timeout=2.0) as four:
        assert one.check_many(items) == four.check_many(items) == ["timeout", "timeout", "timeout", "incorrect"]


def test_worker_killed_from_outside_costs_no_verdict(pool: CheckPool) -> None:
    assert pool.check_many([EASY]) == ["correct"]
    (pid,) = pids(pool)
    os.kill(pid, signal.SIGKILL)
    assert pool.check_many([EASY]) == ["correct"]
    assert pids(pool) != [pid]


def test_long_texts_are_read_by_the_workers_alone(pool: CheckPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read outside the limits")

    text = "It is 3. " * 1000 + r"So \boxed{5}. " + r"\[\\" * 20_000
    monkeypatch.setattr(workers, "extract", refuse)
    assert pool.score_many([(text, "5"), (text, "3")], "number") == [
        Score(status="correct", extracted="5"), Score(status="incorrect", extracted="5"),
    ]  # fmt: skip


@pytest.mark.slow
def test_memory_limit_stops_an_item_before_its_time() -> None:
    worker = (
        "from latbench.answers import workers\n"
        "workers.verdict = lambda gold, *_: 'correct' if gold == r'\\sqrt{8}' else str(len(bytearray(2**31)))\n"
        "workers.serve(2**30, 60.0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", worker], input=b'["a", "b", "math", null]\n', capture_output=True, cwd=ROOT, check=False
    )
    assert run.stdout == b"ready\n"
    assert b"MemoryError" in run.stderr


@pytest.mark.slow
def test_worker_whose_parent_is_gone_ends_in_the_middle_of_an_item() -> None:
    code = "from latbench.answers.workers import serve; serve(2**30, 0.5)"
    line = json.dumps([*ENDLESS, None]).encode() + b"\n"
    run = subprocess.run([sys.executable, "-c", code], input=line, capture_output=True, cwd=ROOT, check=False)
    assert run.returncode == -signal.SIGPROF


def test_worker_that_cannot_start_is_an_error_and_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with CheckPool(1) as pool, pytest.raises(RuntimeError, match="did not start"):
        pool.check_many([EASY])


@pytest.mark.parametrize("limits", [{"num_workers": 0}, {"timeout": 0.0}])
def test_limits_that_no_item_could_meet_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        CheckPool(**limits)


def test_worker_imports_no_torch() -> None:
    code = "import sys\nfrom latbench.answers.workers import serve\nserve()\nassert 'torch' not in sys.modules"
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=b'["x+1", "1+x", "math", null]\n',
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, b'ready\n["correct", "1+x"]\n'), run.stderr.decode()


def test_pool_works_from_a_script_on_stdin_in_another_folder(tmp_path: Path) -> None:
    code = (
        "from latbench.answers.workers import shared_pool\n"
        "print(shared_pool().check_many([('1/2', r'\\int_0^1 x\\,dx', 'math')] * 2), shared_pool() is shared_pool())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (run.returncode, run.stdout) == (0, "['correct', 'correct'] True\n"), run.stderr


def test_shared_pool_is_one() -> None:
    assert shared_pool() is shared_pool()
