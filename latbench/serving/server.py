"""A run behind a socket, from its start to its graceful stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn

from latbench.evaluation.plan import plan
from latbench.runs.run import CONFIG, Run
from latbench.serving.app import Served, make_app
from latbench.serving.engine import Engine
from latbench.serving.requests import Limits
from latbench.serving.settings import ServeSettings, is_loopback
from latbench.util.signals import handling

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


def serve(
    run: Run,
    settings: ServeSettings,
    *,
    changes: Mapping[str, Any],
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a run until a signal stops it.

    Args:
        changes: `generate.*` and `seed` by dotted key, in place of the run's, where a request says nothing of them.
        on_start: told the address once requests are taken.
    Raises: ValueError: a setting that training has fixed, the run cannot be loaded, or the address is taken.
    """
    wanted = plan(run.config, run.config.task_name, changes=changes)
    generate = wanted.generate
    listening = _listen(settings)  # before minutes of loading
    url = f"http://{settings.host}:{listening.getsockname()[1]}"
    engine = Engine(run.method, seed=wanted.seed, batch_size=generate.batch_size, max_queue=settings.max_queue)
    served = Served(
        limits=Limits(
            model=settings.name or run.folder.resolve().name,
            settings=generate,
            max_tokens=max(settings.max_tokens, generate.max_new_tokens),
        ),
        about={
            "created": int((run.folder / CONFIG).stat().st_mtime) if (run.folder / CONFIG).exists() else 0,
            "method": run.config.method_name,
            "backbone": run.method.backbone.name,
            "max_model_len": run.method.backbone.context,
        },
        fingerprint=run.config.setting,
        api_key=settings.api_key,
        hosts=LOOPBACK_NAMES if is_loopback(settings.host) else ("*",),
    )
    app = make_app(engine, served, on_stop=lambda: engine.close(settings.grace))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.grace) or 1,
        timeout_keep_alive=75,
    )
    server = _Server(config, on_start=lambda: on_start(url))
    try:
        with handling(signal.SIGTERM, _nothing), handling(signal.SIGINT, _nothing):
            server.run(sockets=[listening])  # at its end uvicorn raises anew the signal that stopped it
    finally:
        engine.close()
        listening.close()


def _nothing(_number: int, _frame: object) -> None:
    """The server has stopped already."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def _listen(settings: ServeSettings) -> socket.socket:
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {settings.host}:{settings.port} ({error.strerror or error}); choose --host and --port"
        ) from None
    return listening
