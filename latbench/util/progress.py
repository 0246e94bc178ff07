"""A progress bar on standard error, silent when that is not a terminal; a parent process can follow it in a file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from latbench.util.files import temporary

PROGRESS_FILE = "LATBENCH_PROGRESS"  # environment: where a process says how far it has come
EVERY = 1.0  # seconds between two writes of it


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far long work has come."""

    what: str
    """What is being done."""
    done: int
    """Finished items."""
    total: int
    """All items."""


class Bar:
    """Tells a bar how far work has come: called with a number of finished items."""

    def __init__(self, bar: Progress, item: TaskID, told: _Told) -> None:
        self._bar, self._item, self._told = bar, item, told

    def __call__(self, count: int) -> None:
        """Add finished items."""
        self._bar.advance(self._item, count)
        self._told.advance(count)

    def note(self, text: str) -> None:
        """Show a text at the end of the bar, such as the last loss."""
        self._bar.update(self._item, note=text)


@contextmanager
def progress(description: str, *, total: int, done: int = 0) -> Iterator[Bar]:
    """Show how far long work has come; the value takes finished items."""
    told = _Told(os.environ.get(PROGRESS_FILE), Reached(what=description, done=done, total=total))
    with bars(Console(stderr=True)) as shown:
        yield Bar(shown, shown.add_task(description, total=total, completed=done, note=""), told)


def bars(console: Console) -> Progress:
    """Progress bars, silent where the console is no terminal; each has a field `note`.

    Args:
        console: where they are drawn.
    """
    texts = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), texts[1])
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def read_reached(path: Path) -> Reached | None:
    """How far the process has come that writes a file; None where it has not said yet.

    Args:
        path: of the file.
    """
    try:
        return Reached(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class _Told:
    """The file in which a parent process reads how far this one has come."""

    def __init__(self, path: str | None, reached: Reached) -> None:
        self._path = None if path is None else Path(path)
        self._reached = reached
        self._written = -EVERY
        self.advance(0)

    def advance(self, count: int) -> None:
        """Add finished items; the file is written now and then, and at the end."""
        done = self._reached.done + count
        self._reached = Reached(what=self._reached.what, done=done, total=self._reached.total)
        now = time.monotonic()
        if self._path is None or (now - self._written < EVERY and done < self._reached.total):
            return
        self._written = now
        beside = temporary(self._path)
        beside.write_text(json.dumps(asdict(self._reached)), encoding="utf-8")  # lost with a power cut, and no matter
        beside.replace(self._path)
