"""One writer per folder, and one process of a distributed run that writes at all."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
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
def locked(folder: Path, *, for_another: bool = False) -> Iterator[None]:
    """Hold the folder, made where missing, against other writers; the system frees it when the holder dies.

    Args:
        for_another: the folder's run is one that another starts from. Whoever holds it meanwhile is waited for, and
            whoever comes meanwhile waits too; not where several processes share a run, which would wait apart.

    Raises: ValueError: another process holds it. OSError: the folder cannot be written.
    """
    if not is_main_process():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # file systems such as /proc
        raise NotADirectoryError(errno.ENOTDIR, "no folder can be made there", str(folder)) from None
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of another machine"
            waits = for_another or holder.endswith(FOR_ANOTHER)
            if not waits or os.environ.get("WORLD_SIZE", "1") != "1":
                raise ValueError(
                    f"{folder} is being written by process {holder}; wait for it or end it first"
                ) from None
            print(f"waiting for process {holder} to finish {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}{FOR_ANOTHER if for_another else ''}")
        file.flush()
        yield
