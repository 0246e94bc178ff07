"""The HTTP side: routes, errors, streams, and who may ask."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from latbench.serving import requests
from latbench.serving.engine import Accepted, Engine, Event, Failed, FullError, StoppedError, Ticket
from latbench.serving.replies import Reply
from latbench.serving.requests import BadRequestError, ChatRequest, CompletionRequest, Limits

PAGE = Path(__file__).with_name("templates") / "chat.html"
MAX_BODY = 1 << 20  # bytes of a request
NO_STORE = {"cache-control": "no-store"}
PAGE_HEADERS = {
    **NO_STORE,
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and to whom."""

    limits: Limits
    """Of requests."""
    about: dict[str, Any]
    """What /v1/models says of the run beside its name."""
    fingerprint: str
    """Of the run's configuration."""
    api_key: str | None = None
    """That every request under /v1 must bring; None: none."""
    hosts: Sequence[str] = ("*",)
    """Names under which the server answers, so that no foreign page reaches it by a name of its own."""


def make_app(engine: Engine, served: Served, *, on_stop: Callable[[], None] = lambda: None) -> Starlette:
    """The application.

    Args:
        on_stop: called when the server has answered its last request.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(on_stop)

    handlers = _Handlers(engine, served)
    routes = [
        Route("/", handlers.page),
        Route("/health", handlers.health),
        Route("/v1/models", handlers.models),
        Route("/v1/models/{name:path}", handlers.model),
        Route("/v1/completions", handlers.completions, methods=["POST"]),
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(served.hosts), www_redirect=False)],
        exception_handlers={
            BadRequestError: _refusal,  # type: ignore[dict-item]
            404: lambda request, _: _error(f"no {request.method} {request.url.path} here", 404),
            405: lambda request, _: _error(f"{request.url.path} does not take {request.method}", 405),
            500: lambda _request, _error_: _error("the server failed; its log says why", 500),
        },
    )


class _Handlers:
    def __init__(self, engine: Engine, served: Served) -> None:
        self.engine, self.served = engine, served

    async def page(self, _request: HttpRequest) -> Response:
        """The chat page."""
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    async def health(self, _request: HttpRequest) -> Response:
        """Whether it is alive, and how busy."""
        return JSONResponse({"status": "ok", "open": self.engine.num_open, "capacity": self.engine.capacity})

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: HttpRequest) -> Response:
        """One model by name."""
        self._check_key(request)
        name, own = request.path_params["name"], self.served.limits.model
        if name != own:
            raise BadRequestError(f"unknown model {name!r}; this server has {own!r}", "model", 404, "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.served.limits.model, "object": "model", "owned_by": "latbench", **self.served.about}

    async def completions(self, request: HttpRequest) -> Response:
        """Answers to prompts."""
        return await self._answer(request, CompletionRequest)

    async def chat(self, request: HttpRequest) -> Response:
        """Answers to a conversation."""
        return await self._answer(request, ChatRequest)

    async def _answer(self, request: HttpRequest, kind: type[requests.Request]) -> Response:
        self._check_key(request)
        asked = requests.read_request(await _read_json(request), kind, self.served.limits)
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = self._submit(asked, tell)
        try:
            first = await _while_connected(request, events.get())
            if isinstance(first, Failed):
                raise _failure(first)
            assert isinstance(first, Accepted)
            reply = Reply(
                is_chat=kind.is_chat,
                model=self.served.limits.model,
                fingerprint=self.served.fingerprint,
                with_latents=asked.latents,
                per_prompt=asked.n or 1,
                num_prompt_tokens=first.num_prompt_tokens,
            )
            if asked.stream:
                with_usage = asked.stream_options is not None and asked.stream_options.include_usage
                stream = self._stream(ticket, reply, events, with_usage=with_usage)
                return StreamingResponse(stream, media_type="text/event-stream", headers=NO_STORE)
            while not reply.is_complete:
                event = await _while_connected(request, events.get())
                if isinstance(event, Failed):
                    raise _failure(event)
                assert not isinstance(event, Accepted)
                reply.add(event)
            return JSONResponse(reply.whole(), headers=NO_STORE)
        except BaseException:  # the client is gone, or a task of the server's was cancelled
            self.engine.cancel(ticket)
            raise

    def _submit(self, asked: requests.Request, tell: Callable[[Event], None]) -> Ticket:
        try:
            return self.engine.submit(requests.questions(asked, self.served.limits), tell)
        except FullError:
            sentence = f"{self.engine.num_open} answers are being worked on, the most that are taken; try again later"
            raise BadRequestError(sentence, status=429, code="rate_limit_exceeded") from None
        except StoppedError:
            raise BadRequestError("the server is stopping", status=503) from None

    async def _stream(
        self, ticket: Ticket, reply: Reply, events: asyncio.Queue[Event], *, with_usage: bool
    ) -> AsyncIterator[str]:
        try:
            for chunk in reply.first():
                yield _event(chunk)
            while not reply.is_complete:
                event = await events.get()
                if isinstance(event, Failed):
                    yield _event(_error_body(event.sentence, "server_error", None, None))
                    return
                assert not isinstance(event, Accepted)
                reply.add(event)
                for chunk in reply.chunks(event):
                    yield _event(chunk)
            if with_usage:
                yield _event(reply.last())
            yield "data: [DONE]\n\n"
        finally:
            self.engine.cancel(ticket)  # nothing where it is complete

    def _check_key(self, request: HttpRequest) -> None:
        """Raises: BadRequestError: a key is needed and not given."""
        key = self.served.api_key
        given = request.headers.get("authorization", "")
        if key is not None and not hmac.compare_digest(given.encode("latin-1"), f"Bearer {key}".encode()):
            sentence = "this server wants its API key, as the header `Authorization: Bearer KEY`"
            raise BadRequestError(sentence, status=401, code="invalid_api_key")


async def _while_connected(request: HttpRequest, coming: Any) -> Any:
    """What comes, unless the client hangs up first. Raises: BadRequestError: it did."""
    wanted, gone = asyncio.ensure_future(coming), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise BadRequestError("the client hung up", status=499)
        return wanted.result()
    finally:
        for task in (wanted, gone):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _hung_up(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_json(request: HttpRequest) -> Any:
    """The body. Raises: BadRequestError: it is too large, no JSON, or holds text that no tokenizer and no reply can;
    only JSON is taken, which a foreign page may not send."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise BadRequestError("the header Content-Type must be application/json", status=415)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise BadRequestError(f"the body has more than {MAX_BODY} bytes", status=413)
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        sentence = "the body has half of a surrogate pair (\\ud800 to \\udfff), which is no character; leave it out"
        raise BadRequestError(sentence) from None
    except (ValueError, RecursionError):
        raise BadRequestError("the body is no JSON") from None
    return value


def _failure(failed: Failed) -> BadRequestError:
    status = 400 if failed.is_clients else 503
    return BadRequestError(failed.sentence, "prompt" if failed.is_clients else None, status)


def _refusal(_request: HttpRequest, error: BadRequestError) -> Response:
    return _error(str(error), error.status, error.field, error.code)


def _error(sentence: str, status: int, field: str | None = None, code: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return JSONResponse(_error_body(sentence, kind, field, code), status, headers)


def _error_body(sentence: str, kind: str, field: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": sentence, "type": kind, "param": field, "code": code}}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
