"""A progress bar on standard error, silent when that is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """Tells a bar how far work has come: called with a number of finished items."""

    def __init__(self, bar: Progress, item: TaskID) -> None:
        self._bar, self._item = bar, item

    def __call__(self, count: int) -> None:
        """Add finished items."""
        self._bar.advance(self._item, count)

    def note(self, text: str) -> None:
        """Show a text at the end of the bar, such as the last loss."""
        self._bar.update(self._item, note=text)


@contextmanager
def progress(description: str, *, total: int, done: int = 0) -> Iterator[Bar]:
    """Show how far long work has come; the value takes finished items."""
    console = Console(stderr=True)
    texts = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), texts[1])
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield Bar(bar, bar.add_task(description, total=total, completed=done, note=""))
