"""Chat templates rendered under limits: a template comes with a model, and is a program that need not end.

The sandbox of Jinja keeps a template from the interpreter, but bounds neither nested loops nor the size of what it
builds. So it runs in a worker process of its own, `python -m latbench.model.chat_template`, with one JSON line per
conversation on its pipes; the worker is killed and replaced where it exceeds its CPU time, memory or length. It uses
the renderer of transformers and imports no torch.

Some templates say today's date. It is always DAY here: a prompt must be the same in training, after a resume and when
an answer is repeated.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU_SECONDS = 2.0  # of one conversation; an ordinary one takes 30 microseconds
WALL_SECONDS = 120.0  # for the start, and for a conversation on a loaded machine
MEMORY_BYTES = 2**30  # address space of the worker
MAX_CHARACTERS = 2**20  # of a rendered conversation
DAY = datetime(2024, 7, 26)  # what the template of Llama 3.2 says by itself where no clock is at hand
_READY = b"ready\n"


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
    """The text of a conversation in the tokenizer's chat template.

    Args:
        messages: {"role": ..., "content": ...} each.
        answer: end with the opening of the assistant's turn; False: with the last message, which goes on.
    Raises: ValueError: the template exceeds a limit, or refuses the conversation.
    """
    request = {
        "chat_template": tokenizer.get_chat_template(None, None),
        "messages": [{key: value for key, value in message.items() if value is not None} for message in messages],
        "variables": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "answer": answer,
    }
    reply = shared_renderer().ask(request)
    if "text" in reply:
        return str(reply["text"])
    raise ValueError(
        f"the chat template of {tokenizer.name_or_path} {reply['error']}; mend it, or set model.chat_template=false"
    )


class Renderer:
    """One worker process, started when it is first asked.

    Args:
        cpu_seconds: of one conversation.
        memory_bytes: address space of the worker.
    """

    def __init__(self, cpu_seconds: float = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limits = (str(cpu_seconds), str(memory_bytes))
        self._exceeded = f"takes more than {cpu_seconds:g} s of CPU time or {memory_bytes / 2**30:g} GiB of memory"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """`text`, or `error` as the rest of a sentence about the template. Raises: RuntimeError: no worker starts."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout)
            except BrokenPipeError:
                line = b""
            except BaseException:  # Ctrl-C between question and reply: the next question must not get this reply
                self._kill()
                raise
            if line.endswith(b"\n"):
                reply: dict[str, str] = json.loads(line)
                return reply
            self._kill()
            return {"error": self._exceeded}

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        package_root = str(Path(__file__).resolve().parents[2])  # an uninstalled checkout must be importable too
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "latbench.model.chat_template", *self._limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )
        assert process.stdout is not None
        if _read_line(process.stdout) != _READY:
            self._kill()
            raise RuntimeError("no worker for chat templates starts; `python -m latbench.model.chat_template` says why")
        return process


@cache
def shared_renderer() -> Renderer:
    """The worker of this process, ended with it."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer


def _read_line(stream: IO[bytes]) -> bytes:
    """One line from a pipe; what had come by then when the time is up or the pipe closes."""
    deadline, parts = time.monotonic() + WALL_SECONDS, [b""]
    while not parts[-1].endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(stream.fileno(), 2**16) if ready else b""
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


class _Day(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Day:
        """DAY."""
        return cls(DAY.year, DAY.month, DAY.day, tzinfo=tz)


def serve(cpu_seconds: float = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
    """The worker's side: render JSON lines from stdin until it closes.

    The timer counts the CPU time of this process, and its signal ends it wherever it is, also in the middle of C code;
    so the verdict on a template does not depend on what else the machine does.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    from transformers.utils import chat_template_utils

    chat_template_utils.datetime = _Day  # what `strftime_now` of a template asks
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    replies.write(_READY)
    replies.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        reply = _reply(json.loads(line), chat_template_utils.render_jinja_template)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _reply(request: Mapping[str, Any], render_template: Any) -> dict[str, str]:
    from jinja2 import TemplateError

    try:
        texts, _ = render_template(
            [request["messages"]],
            chat_template=request["chat_template"],
            add_generation_prompt=request["answer"],
            continue_final_message=not request["answer"],
            **request["variables"],
        )
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        return {"error": f"refuses the conversation ({type(error).__name__}: {reason})"}
    if len(texts[0]) > MAX_CHARACTERS:
        return {"error": f"gives {len(texts[0])} characters, more than {MAX_CHARACTERS}"}
    return {"text": texts[0]}


if __name__ == "__main__":
    serve(*(convert(value) for convert, value in zip((float, int), sys.argv[1:], strict=False)))
