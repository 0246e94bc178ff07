"""Bars on standard error for the jobs that run, each as far as its file of progress says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from latbench.cli.console import note
from latbench.util.progress import bars, read_reached

LOOK_EVERY = 0.5  # seconds between two looks at how far the jobs have come


class JobBars:
    """Shows how far jobs have come: one bar for all of them, and one for each that runs.

    Args:
        what: what is counted, such as `runs`.
        total: of them.
        logs: folder of the files of progress.
        is_shown: whether the job of a name is one of them.
    """

    def __init__(self, what: str, total: int, logs: Path, is_shown: Callable[[str], bool]) -> None:
        self._logs, self._is_shown = logs, is_shown
        self._console = Console(stderr=True)
        self._bars = bars(self._console)
        self._whole = self._bars.add_task(what, total=total, note="")
        self._ended = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show them for the time of a block."""
        thread = threading.Thread(target=self._follow, daemon=True)
        with self._bars:
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                thread.join()

    def advance(self) -> None:
        """Count one that has ended."""
        self._bars.advance(self._whole)

    def say(self, sentence: str) -> None:
        """Write a line above the bars, or alone where standard error is no terminal."""
        if self._bars.disable:
            note(sentence)
        else:
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        shown: dict[str, int] = {}
        while not self._ended.wait(LOOK_EVERY):
            found = {path.stem: read_reached(path) for path in self._logs.glob("*.progress")}
            running = {name: reached for name, reached in found.items() if reached and self._is_shown(name)}
            for name in shown.keys() - running.keys():
                self._bars.remove_task(shown.pop(name))  # type: ignore[arg-type]
            for name, reached in running.items():
                if name not in shown:
                    shown[name] = self._bars.add_task(name, note="")
                what = f"{name}: {reached.what}"
                self._bars.update(shown[name], description=what, total=reached.total, completed=reached.done)  # type: ignore[arg-type]
