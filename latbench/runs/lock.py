"""One writer per folder, and one process of a distributed run that writes at all.

A lock is two files. `.lock` is locked with flock, which the system frees when its holder dies, but which network file
systems may keep to one machine, or not have at all. `.owner` names the holder and comes into being by one hard link,
which they do for one of many at a time; where its holder's machine cannot be asked, it holds until it is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from latbench.runs.owner import OWNER, Owner, claim, holder_of, release

LOCK = ".lock"
NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # of file systems without it
FOR_ANOTHER = " (for another run)"  # what the lock says of a holder that trains what its own run starts from


def is_main_process() -> bool:
    """Whether this process writes: the only one, or rank 0 under `accelerate launch` or `torchrun`."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_all() -> None:
    """Let the processes of a distributed run meet; nothing where there is one."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def locked(folder: Path, *, for_another: bool = False, every_process: bool = False) -> Iterator[None]:
    """Hold the folder, made where missing, against other writers; the system frees it when the holder dies.

    A folder that was made for it and in which nothing was written goes again when the block ends.

    Args:
        folder: to be written in.
        for_another: the folder's run is one that another starts from. Whoever holds it meanwhile is waited for, and
            whoever comes meanwhile waits too; not where several processes share a run, which would wait apart.
        every_process: each process of a distributed run holds a folder of its own; else the main one alone holds it.
    Raises: ValueError: another process holds it. OSError: the folder cannot be written.
    """
    if not (every_process or is_main_process()):
        yield
        return
    made = _make(folder)
    with _held(folder, for_another=for_another):
        try:
            yield
        finally:
            if made:
                _remove_unused(folder, made)


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder, this one included."""
    try:
        with (folder / LOCK).open("r") as file:
            has_flock = _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return holder_of(folder, here_is_dead=has_flock) is not None


def _flock(file: TextIO, how: int) -> bool:
    """Lock a file. Returns: False where its file system cannot. Raises: BlockingIOError: another process has it."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in NO_FLOCK:
            return False
        raise
    return True


def _make(folder: Path) -> list[Path]:
    """Make the folder. Returns: the folders that had to be made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # file systems such as /proc
        raise NotADirectoryError(errno.ENOTDIR, "no folder can be made there", str(folder)) from None
    return missing


def _remove_unused(folder: Path, made: Sequence[Path]) -> None:
    """Remove folders that were made for nothing; whatever holds more than the lock stays."""
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {LOCK, OWNER}:
        return
    for name in (OWNER, LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else needs it by now
        for path in made:
            path.rmdir()


@contextmanager
def _held(folder: Path, *, for_another: bool) -> Iterator[None]:
    """Hold the lock of a folder that is there."""
    file = (folder / LOCK).open("a+")
    try:
        has_flock = _take(file, folder, for_another=for_another)
        while not _is_in_place(file, folder):  # its holder removed it while this process waited
            file.close()
            _make(folder)
            file = (folder / LOCK).open("a+")
            has_flock = _take(file, folder, for_another=for_another)
        own = Owner.here(waits=for_another)
        while (holder := claim(folder, own, here_is_dead=has_flock)) is not None:
            _refuse(folder, holder)
            time.sleep(1)
        file.truncate(0)
        file.write(f"{os.getpid()}{FOR_ANOTHER if for_another else ''}")
        file.flush()
        try:
            yield
        finally:
            release(folder, own)
    finally:
        file.close()


def _is_in_place(file: TextIO, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _take(file: TextIO, folder: Path, *, for_another: bool) -> bool:
    """Take the lock on this machine.

    Returns: False where the file system has none.
    Raises: ValueError: another process holds it, and it is not to be waited for.
    """
    try:
        return _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "of another machine"
        waits = for_another or holder.endswith(FOR_ANOTHER)
        if not waits or os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(f"{folder} is being written by process {holder}; wait for it or end it first") from None
        print(f"waiting for process {holder} to finish {folder}", file=sys.stderr)
        return _flock(file, fcntl.LOCK_EX)


def _refuse(folder: Path, holder: Owner) -> None:
    """Raises: ValueError: the holder, on another machine, is not to be waited for."""
    if not holder.waits or os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            f"{folder} is being written by process {holder.process} on {holder.host}; wait for it or end it first, and "
            f"if that machine has died, remove {folder / OWNER}"
        )
