"""Run a command that ends with the process that asked for it: `python -m latbench.sweeps.child PID COMMAND...`.

Linux can send a signal to a process whose parent dies, however it dies. The signal outlasts `exec`, so that it is asked
for here, in a process of one thread, and the command then takes this process over. On other systems the command runs on
when its parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def under(parent: int, command: Sequence[str]) -> tuple[str, ...]:
    """The command line that runs a command for as long as a process lives.

    Args:
        parent: id of the process, which must be the one that starts the command line.
        command: program and arguments.
    """
    return (sys.executable, "-m", __name__, str(parent), *command)


def main(arguments: Sequence[str]) -> None:
    """Become the command. Raises: SystemExit: the parent has died already."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(parent):  # before the signal was asked for
            raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
