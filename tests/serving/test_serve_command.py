"""`latbench serve` as a process: it answers lm-eval and the page, and stops gracefully on a signal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latbench import serving
from latbench.cli import main
from latbench.evaluation.job import EvalJob
from latbench.runs.run import Run
from tests.serving.browser import CHROMIUM, look
from tests.serving.conftest import Server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "latbench" / "serving" / "templates" / "chat.html"


@contextmanager
def process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`latbench serve` on a free port, with its address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "latbench", "serve", *words, "--port", "0"]
    started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stderr is not None
        line = next(line for line in started.stderr if "serving" in line or "error" in line)
        address = re.search(r"(http://127\.0\.0\.1:\d+)/v1", line)
        assert address is not None, line
        yield started, address[1]
    finally:
        started.kill()
        started.wait()


@pytest.mark.slow  # starts a Python with torch
def test_the_command_serves_and_stops_gracefully(latent_run: Run) -> None:
    words = [str(latent_run.folder), "--set", "generate.max_new_tokens=60", "--name", "ours"]
    with process(*words) as (started, url):
        question = EvalJob.of(latent_run, None).examples[0].question
        body = json.dumps({"model": "ours", "prompt": [question] * 64, "max_tokens": 3000, "temperature": 0}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            choices = json.loads(reply.read())["choices"]
        assert len(choices) == 64
        (answer,) = latent_run.generate([question], max_new_tokens=3000)
        assert {choice["text"] for choice in choices} == {answer.text}
        asking = subprocess.Popen(
            [sys.executable, "-c", "import sys, urllib.request as u; head = {'Content-Type': 'application/json'}; "
             "print(u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), head)).status)",
             f"{url}/v1/completions", body.decode()],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        while json.loads(urllib.request.urlopen(f"{url}/health").read())["open"] == 0:
            assert asking.poll() is None
        started.send_signal(signal.SIGTERM)
        assert asking.communicate(timeout=60)[0] == "200\n"
        assert started.wait(timeout=60) == 0


@pytest.mark.slow  # imports lm-eval
def test_lm_eval_asks_the_server_and_scores_its_answers(explicit: Server, tmp_path: Path) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    run = explicit.run
    task = {**load_yaml(ROOT / "tasks" / "lm_eval" / "synth.yaml"), "task": "ours"}
    found = simple_evaluate(
        model="local-chat-completions",
        model_args={
            "model": "ours",
            "base_url": f"{explicit.url}/v1/chat/completions",
            "num_concurrent": 8,
            "max_retries": 1,
            "tokenized_requests": False,
        },
        tasks=[task],
        task_manager=TaskManager(include_defaults=False, metadata={"run": str(run.folder)}),
        apply_chat_template=True,
        gen_kwargs={"max_gen_toks": run.config.generate.max_new_tokens},
        bootstrap_iters=0,
    )
    job = EvalJob.of(run, None)
    own = run.generate([example.question for example in job.examples])
    samples = sorted(found["samples"]["ours"], key=lambda sample: sample["doc_id"])
    assert [sample["resps"][0][0] for sample in samples] == [answer.text for answer in own]
    correct = [job.task.score(a.text, e).status == "correct" for a, e in zip(own, job.examples, strict=True)]
    assert found["results"]["ours"]["latbench_correct,none"] == pytest.approx(sum(correct) / len(correct))


def test_the_page_is_one_file_that_loads_nothing() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:,)|https?://|@import|url\(|innerHTML|insertAdjacent|eval\(", text)
    assert len(text) < 20_000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.slow  # starts a browser
def test_the_page_shows_latent_steps_and_the_answer(latent: Server, questions: list[str], tmp_path: Path) -> None:
    (answer,) = latent.run.generate([questions[0]])
    with urllib.request.urlopen(f"{latent.url}/") as reply:
        policy = reply.headers["content-security-policy"]
        page = reply.read().decode()
    assert policy.startswith("default-src 'none'")
    assert page == PAGE.read_text(encoding="utf-8")
    address = f"{latent.url}/?question={urllib.parse.quote(questions[0])}&ask"
    shown, picture = look(address, "document.querySelector('.facts:not([hidden])')", tmp_path)
    assert picture.startswith(b"\x89PNG")
    assert shown.count('<li class="step">') == answer.num_latents > 0
    text = re.search(r'<div class="text">(.*?)</div>', shown, re.DOTALL)
    assert text is not None
    assert text[1] == answer.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"{answer.num_latents} latent steps, " in shown
    assert latent.idle()


def test_without_its_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("latbench.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("server", "app", "engine", "requests", "replies", "stream"):
        monkeypatch.delattr(serving, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err == "error: uvicorn is not installed; run `pip install 'latbench[serve]'`\n"


def test_a_taken_port_and_a_missing_run_are_said(latent: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = latent.url.rsplit(":", 1)[1]
    assert main(["serve", str(latent.run.folder), "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2
    assert "no run in" in capsys.readouterr().err
    assert main(["serve", str(latent.run.folder), "--set", "train.lr=1"]) == 2
    assert "train.lr is fixed by the run's training" in capsys.readouterr().err
