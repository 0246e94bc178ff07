"""Files that must be whole: written beside and renamed, and known by the hash of their content."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex; read once per process as long as the file stays untouched."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, _inode: int, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """The first file of a folder that is not the one that was saved, as a clause; None where all are.

    Args:
        hashes: SHA-256 by path within the folder.
    """
    for name, saved in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (here := sha256_of(path)) != saved:
            return f"{name} is not the file that was saved (sha256 {here[:12]} instead of {saved[:12]})"
    return None


def remove_at_once(folder: Path) -> None:
    """Remove a folder so that nobody sees a half of it; one that is gone already is no error."""
    former = folder.with_name(f".former-{folder.name}")
    shutil.rmtree(former, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.replace(former)
    shutil.rmtree(former, ignore_errors=True)


def put_in_place(beside: Path, folder: Path) -> None:
    """Rename a whole folder into the place of another, which goes.

    Args:
        beside: on the same file system.
        folder: to be replaced, which may be missing.
    """
    former = beside.with_name(f"{beside.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.replace(former)
    beside.replace(folder)
    shutil.rmtree(former, ignore_errors=True)
