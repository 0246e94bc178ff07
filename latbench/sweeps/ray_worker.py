"""What runs on the nodes of a Ray cluster: a look at the node before a sweep, and a job with its files.

Ray hands these out by name, so that the same latbench must be installed on every node.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latbench.data import DATA_DIR
from latbench.runs.environment import git_state, versions
from latbench.runs.lock import LOCK
from latbench.runs.owner import GONE, OWNER, machine
from latbench.sweeps.child import under
from latbench.util.progress import PROGRESS_FILE

BLOCK = 16 << 20  # bytes of a file that travel at once


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node, as the driver must know it."""

    host: str
    """Its name, for people."""
    machine: str
    """What its locks say of the machine."""
    has_token: bool
    """Whether it sees the folder of the driver."""
    data_dir: str | None
    """Its folder of data files; None where the driver has none."""
    absent: list[str]
    """Folders and files that it should have and has not."""
    software: dict[str, str]
    """Versions of what can change a result, and latbench's commit."""


def look(token: str, data_dir: str | None, needed: Sequence[str]) -> NodeFacts:
    """Look at the node that this runs on.

    Args:
        token: path of a file that the driver has written into its folder of runs.
        data_dir: the driver's folder of data files; a node may have another, in its own LATBENCH_DATA_DIR.
        needed: folders of models and files of own data, which must be there under the same path; a file may lie in
            the folder of data files instead.
    """
    own_data = data_dir and os.environ.get(DATA_DIR, data_dir)
    everything = [*([own_data] if own_data else []), *needed]
    return NodeFacts(
        host=socket.gethostname(),
        machine=machine(),
        has_token=Path(token).exists(),
        data_dir=own_data,
        absent=[path for path in everything if not _is_there(path, own_data)],
        software=software(),
    )


def _is_there(path: str, data_dir: str | None) -> bool:
    return Path(path).exists() or (data_dir is not None and (Path(data_dir) / Path(path).name).is_file())


def software() -> dict[str, str]:
    """Versions of what can change a result, and latbench's commit."""
    return {**versions(), "latbench commit": str(git_state()[0])}


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A job, as it is sent to a node."""

    commands: tuple[tuple[str, ...], ...]
    """Without the Python interpreter that each begins with, which is the node's."""
    root: str
    """The driver's folder of runs; its paths are replaced by those of the node."""
    paths: tuple[str, ...]
    """Files and folders in it that the commands read and write."""
    shared: bool
    """Whether the node sees that folder, so that nothing is copied."""
    environment: Mapping[str, str]
    """Variables of the driver that the commands need."""
    place: str
    """The driver's working folder, which the commands are run in where the node has it."""
    gone: tuple[str, ...]
    """Machines that have left the cluster, whose locks no longer hold."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How a job stands."""

    log: bytes
    """What its commands have written since the last look."""
    reached: bytes | None
    """The content of its file of progress."""
    num_ended: int
    """Commands that have ended well."""
    returncode: int | None
    """Of the last command; None while one runs."""


class JobActor:
    """One job on a node; its methods return at once, the commands run beside them and end with this process."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._work = Path(tempfile.mkdtemp(prefix="latbench-job-"))
        self._root = Path(spec.root) if spec.shared else self._work / "runs"
        self._log, self._progress = self._work / "log", self._work / "progress"
        self._num_read = self._num_ended = 0
        self._returncode: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        self._own = {PROGRESS_FILE: str(self._progress), "PYTHONPATH": path}  # the latbench that this process has

    def put(self, name: str, data: bytes) -> None:
        """Append to a file that the commands read; nothing of a shared folder travels."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def start(self) -> None:
        """Begin with the first command."""
        self._log.touch()
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> State:
        """How the job stands."""
        returncode, num_ended = self._returncode, self._num_ended  # before the log is read, which then is whole
        with self._log.open("rb") as file:
            file.seek(self._num_read)
            log = file.read(BLOCK)
        self._num_read += len(log)
        reached = self._progress.read_bytes() if self._progress.exists() else None
        more = len(log) == BLOCK
        return State(log=log, reached=reached, num_ended=num_ended, returncode=None if more else returncode)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of each file of the job, by its name in the folder of runs."""
        found = {}
        for name in self._spec.paths:
            path = self._root / name
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file() and file.name not in (LOCK, OWNER):
                    stat = file.stat()
                    found[file.relative_to(self._root).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def read(self, name: str, offset: int) -> bytes:
        """A part of a file."""
        with (self._root / name).open("rb") as file:
            file.seek(offset)
            return file.read(BLOCK)

    def stop(self) -> None:
        """Let training stop at its next whole step, and begin with no further command."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)

    def clear(self) -> None:
        """Remove what the job has left on the node."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _run(self) -> None:
        returncode = 0
        with self._log.open("ab") as log:
            for command in self._spec.commands:
                returncode = self._run_command([self._here(argument) for argument in command], log.fileno())
                if returncode:
                    break
                self._num_ended += 1
        self._returncode = returncode

    def _here(self, argument: str) -> str:
        """An argument with the node's path in place of the driver's."""
        root = self._spec.root
        return str(self._root) + argument.removeprefix(root) if f"{argument}/".startswith(f"{root}/") else argument

    def _run_command(self, arguments: Sequence[str], log: int) -> int:
        command = [sys.executable, *arguments]
        os.write(log, f"$ {shlex.join(command)}  # on {socket.gethostname()}\n".encode())
        gone = {GONE: ",".join(self._spec.gone)} if self._spec.gone else {}
        with self._lock:
            if self._stopped:
                return 1
            self._process = subprocess.Popen(
                under(os.getpid(), command),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._spec.place if Path(self._spec.place).is_dir() else self._work,
                env={**self._spec.environment, **os.environ, **gone, **self._own},
                process_group=0,
            )
        returncode = self._process.wait()
        with self._lock:
            self._process = None
        return returncode
