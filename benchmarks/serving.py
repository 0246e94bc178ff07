"""Answers per second through the HTTP server, against the offline loop on the same questions, in one run.

    python benchmarks/serving.py RUN [--questions 256] [--clients 1,8,64] [--seconds S]

For each number of clients: so many threads ask one question after another, each over a connection of its own, until all
questions are answered (or, with --seconds, until the time is up, beginning anew at the end). The peer is `decode` over
the same questions with as many rows as there are clients, since a client has one question open at a time. Every
answer, at temperature 0, is compared with the offline one; a question without its answer counts as lost. The server is
a process of its own, so that it does not share an interpreter with the clients.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from latbench.evaluation.job import EvalJob
from latbench.runs.run import Run, load_run

QUEUE = 4096


def main() -> None:
    """Print one row for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=None)
    given = parser.parse_args()
    run = load_run(given.run)
    questions = [example.question for example in EvalJob.of(run, None, limit=given.questions).examples]
    rows = [measure(run, questions, int(number), given.seconds) for number in given.clients.split(",")]
    head = (
        "clients",
        "offline, answers/s",
        "served, answers/s",
        "ratio",
        "p50, ms",
        "p99, ms",
        "answers",
        "lost",
        "other",
    )
    print(tabulate(rows, head, tablefmt="github", floatfmt=".2f"))
    if any(row[-1] or row[-2] for row in rows):
        sys.exit("some answers are lost, or are not those of the offline loop")


def measure(run: Run, questions: Sequence[str], num_clients: int, seconds: float | None) -> list[Any]:
    """One row of the table."""
    before = offline(run, questions, num_clients)
    with_server = served(run, questions, num_clients, seconds)
    after = offline(run, questions, num_clients)  # before and after, as a machine's speed drifts
    texts, rate = before[0], 2 / (1 / before[1] + 1 / after[1])
    answers, took, asked = with_server
    other = sum(text != texts[place] for place, text, _ in answers)
    waits = sorted(1000 * wait for _, _, wait in answers)
    speed = len(answers) / took
    late = waits[min(len(waits) - 1, int(0.99 * len(waits)))]
    lost = asked - len(answers)
    return [num_clients, rate, speed, speed / rate, waits[len(waits) // 2], late, len(answers), lost, other]


def offline(run: Run, questions: Sequence[str], batch_size: int) -> tuple[list[str], float]:
    """Texts, and answers per second."""
    config = replace(run.config.generate, batch_size=batch_size, temperature=0.0)
    run.method.generate(questions[:batch_size], config)
    start = time.perf_counter()
    answers = run.method.generate(questions, config, seed=run.config.seed)
    return [answer.text for answer in answers], len(answers) / (time.perf_counter() - start)


def served(
    run: Run, questions: Sequence[str], num_clients: int, seconds: float | None
) -> tuple[list[tuple[int, str, float]], float, int]:
    """Answers as (question, text, seconds), the time that all took, and how many were asked."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "latbench", "serve", str(run.folder), "--port", "0", "--name", "model"]
    command += ["--set", f"generate.batch_size={num_clients}", "--max-queue", str(QUEUE)]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )
    try:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "serving" in line or "error" in line)
        address = re.search(r"http://([\d.]+):(\d+)/v1", line)
        assert address is not None, line
        place = address[1], int(address[2])
        ask(*place, questions[:num_clients], num_clients, None)  # warm, as the offline loop is
        return ask(*place, questions, num_clients, seconds)
    finally:
        server.terminate()
        server.wait()


def ask(
    host: str, port: int, questions: Sequence[str], num_clients: int, seconds: float | None
) -> tuple[list[tuple[int, str, float]], float, int]:
    """See `served`."""
    answers: list[tuple[int, str, float]] = []
    lock, asked = threading.Lock(), 0
    deadline = None if seconds is None else time.perf_counter() + seconds

    def next_place() -> int | None:
        nonlocal asked
        with lock:
            over = asked >= len(questions) if deadline is None else time.perf_counter() > deadline
            if over:
                return None
            asked += 1
            return (asked - 1) % len(questions)

    def client() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=600)
        while (place := next_place()) is not None:
            body = {"model": "model", "messages": [{"role": "user", "content": questions[place]}], "temperature": 0}
            start = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            value = json.loads(reply.read())
            if reply.status == 200:
                text = value["choices"][0]["message"]["content"]
                answers.append((place, text, time.perf_counter() - start))

    clients = [threading.Thread(target=client) for _ in range(num_clients)]
    start = time.perf_counter()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return answers, time.perf_counter() - start, asked


if __name__ == "__main__":
    main()
