"""Files that must be whole: written beside and renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write beside and rename, so that the file is never seen half written, not even after a power cut."""
    write_whole_bytes(path, text.encode())


def write_whole_bytes(path: Path, data: bytes) -> None:
    """As `write_whole`, of bytes."""
    beside = temporary(path)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def temporary(path: Path) -> Path:
    """Where `write_whole` writes; a killed process leaves it behind."""
    return path.with_name(path.name + ".tmp")


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that somebody else may have written.

    Args:
        path: of a regular file: a pipe or a device would not end.
        limit: most bytes that it may have.
    Raises: ValueError: it is larger, or no regular file. OSError: it cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; remove it")
    if size > limit:
        raise ValueError(f"{path} has {size} bytes, more than the {limit} that such a file may have")
    with path.open("rb") as file:
        return file.read(limit)
