"""Registered tasks whose splits are files, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latbench.data import FileTask
from latbench.data.file_task import Source
from latbench.registry import get_task_entry
from latbench.task import TaskConfig


def file_task(name: str) -> type[FileTask[Any]]:
    """The class of a registered task whose splits are files."""
    cls = get_task_entry(name).cls
    assert issubclass(cls, FileTask)
    return cls


def with_sources(name: str, sources: Mapping[str, Source]) -> FileTask[TaskConfig]:
    """The task with its default settings and other sources."""
    config = get_task_entry(name).config()
    task: FileTask[TaskConfig] = type("Fixture", (file_task(name),), {"sources": sources})(config)
    return task
