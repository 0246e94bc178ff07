"""Who holds a folder, in a file that is safe on network file systems.

The file comes into being by a hard link to a whole one, which NFS (from version 3), Lustre, CephFS and GPFS do for one
process at a time, whatever machine it is on. A holder that was killed leaves the file behind. It no longer counts where
the machine it names is this one, on which flock says who lives, where this machine was started anew since, or where
LATBENCH_GONE_MACHINES names it, as the driver of a cluster does once it has lost a node.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

OWNER = ".owner"
GONE = "LATBENCH_GONE_MACHINES"  # environment: comma-separated
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@cache
def machine() -> str:
    """The machine since it was started: what its containers share, and another machine does not."""
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return f"{socket.gethostname()}-{uuid.getnode():x}"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that holds a folder."""

    machine: str
    """See `machine`."""
    host: str
    """Name of the machine."""
    node: int
    """Number of its network card: with its name, the machine across its starts."""
    process: int
    """Id of the process."""
    started: float
    """When it was started, in seconds since 1970: its id may be another's by now."""
    waits: bool
    """Whether others wait for it."""

    @classmethod
    def here(cls, *, waits: bool) -> Owner:
        """This process."""
        import psutil

        return cls(
            machine=machine(),
            host=socket.gethostname(),
            node=uuid.getnode(),
            process=os.getpid(),
            started=psutil.Process().create_time(),
            waits=waits,
        )

    def is_gone(self, *, here_is_dead: bool) -> bool:
        """Whether it can be known that the process no longer lives.

        Args:
            here_is_dead: flock says that no process of this machine holds the folder.
        """
        here = Owner.here(waits=self.waits)
        if self.machine == here.machine:
            return here_is_dead or not _lives(self.process, self.started)
        started_anew = (self.host, self.node) == (here.host, here.node)
        return started_anew or self.machine in os.environ.get(GONE, "").split(",")


def holder_of(folder: Path, *, here_is_dead: bool) -> Owner | None:
    """The process that holds a folder; None where none does that may still live.

    Args:
        folder: that may be held.
        here_is_dead: flock says that no process of this machine holds it.
    """
    holder = _read(folder)
    return None if holder is None or holder.is_gone(here_is_dead=here_is_dead) else holder


def claim(folder: Path, own: Owner, *, here_is_dead: bool) -> Owner | None:
    """Become the holder of a folder.

    Args:
        folder: to hold.
        own: who wants to.
        here_is_dead: flock says that no other process of this machine holds it.
    Returns: None where it worked; else the holder.
    """
    mine = folder / f"{OWNER}-{own.machine[:8]}-{own.process}"
    mine.write_text(json.dumps(asdict(own)))
    try:
        if _link(mine, folder / OWNER):
            return None
        if (holder := holder_of(folder, here_is_dead=here_is_dead)) is not None:
            return holder
        mine.replace(folder / OWNER)  # of a dead holder
        there = _read(folder)
        return None if there is not None and replace(there, waits=own.waits) == own else there
    finally:
        mine.unlink(missing_ok=True)


def release(folder: Path, own: Owner) -> None:
    """Hold a folder no longer; what somebody else holds by now stays."""
    if _read(folder) == own:
        (folder / OWNER).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """Whether the target was not there and is now. Without hard links, NFS from version 3 creates as safely."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        try:
            with target.open("x") as file:
                file.write(source.read_text())
        except FileExistsError:
            return False
    return True


def _read(folder: Path) -> Owner | None:
    """Whom the file names; None where there is none, or a damaged one."""
    try:
        return Owner(**json.loads((folder / OWNER).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _lives(process: int, started: float) -> bool:
    import psutil

    try:
        return abs(psutil.Process(process).create_time() - started) < 1
    except psutil.NoSuchProcess:
        return False
