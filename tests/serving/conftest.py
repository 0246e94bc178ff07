"""A server over a run with random weights, on a free port, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import openai
import pytest
import uvicorn

from latbench.runs.run import Run
from latbench.serving.app import Served, make_app
from latbench.serving.engine import Engine
from latbench.serving.requests import Limits
from latbench.serving.server import LOOPBACK_NAMES
from tests.integrations.conftest import random_run


@dataclass
class Server:
    """One that runs."""

    run: Run
    engine: Engine
    url: str

    @cached_property
    def usual_client(self) -> openai.OpenAI:
        """The official client; making one takes a while."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def client(self, **settings: Any) -> openai.OpenAI:
        """The official client with settings of its own."""
        return self.usual_client.with_options(**settings) if settings else self.usual_client

    def idle(self) -> bool:
        """Whether every question is answered or dropped, soon."""
        deadline = time.monotonic() + 10
        while self.engine.num_open and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.engine.num_open == 0


@contextmanager
def serving(run: Run, *, max_queue: int = 64, api_key: str | None = None, **generate: Any) -> Iterator[Server]:
    """A server over a run until the block ends."""
    settings = replace(run.config.generate, **generate)
    engine = Engine(run.method, seed=run.config.seed, batch_size=settings.batch_size, max_queue=max_queue)
    limits = Limits(model="ours", settings=settings, max_tokens=64)
    about = {"created": 0, "method": run.config.method_name, "backbone": "tiny", "max_model_len": 99}
    served = Served(limits=limits, about=about, fingerprint="f", api_key=api_key, hosts=LOOPBACK_NAMES)
    config = uvicorn.Config(make_app(engine, served, on_stop=engine.close), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(run, engine, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `coconut` run."""
    return random_run("coconut", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def explicit_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `cot` run."""
    return random_run("cot", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def latent(latent_run: Run) -> Iterator[Server]:
    """A server over a `coconut` run."""
    with serving(latent_run, batch_size=4) as server:
        yield server


@pytest.fixture(scope="session")
def explicit(explicit_run: Run) -> Iterator[Server]:
    """A server over a `cot` run."""
    with serving(explicit_run, batch_size=4) as server:
        yield server


@pytest.fixture(scope="session")
def questions(latent_run: Run) -> list[str]:
    """Those of the run's own task, as it words them."""
    from latbench.evaluation.job import EvalJob

    return [example.question for example in EvalJob.of(latent_run, None).examples][:8]
