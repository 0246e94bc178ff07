"""A progress bar on standard error, silent when that is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(description: str, *, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how far long work has come; the value is a function that adds finished items."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        item = bar.add_task(description, total=total, completed=done)
        yield lambda count: bar.advance(item, count)
