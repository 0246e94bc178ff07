"""Jobs on a Ray cluster: each on a node with the resources it asks for, begun again elsewhere when its node dies.

The driver keeps all results. Where a node sees the driver's folder of runs, its jobs work in it; else the files of a
job are sent to the node first, and brought back whole after each of its commands, so that a training that has ended is
not lost with the node that then evaluates it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latbench.data import DATA_DIR
from latbench.runs.run import TRAIN
from latbench.sweeps.executor import Job, JobResult, in_order, last_line
from latbench.sweeps.ray_worker import BLOCK, JobActor, JobSpec, NodeFacts, look, software
from latbench.util.files import put_in_place, remove_at_once, temporary
from latbench.util.signals import handling

POLL = 0.5  # seconds between two looks at the running jobs
PATIENCE = 180.0  # seconds in which a node must say what it has
GRACE = 120.0  # seconds that training has for its last whole step after Ctrl-C
ANSWER = 5.0  # seconds in which the head of a cluster must answer
SETTINGS = 4  # type of the frame that either side of HTTP/2 begins with (RFC 9113, section 3.4)
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
RETRIES = 3  # times that a job is begun again because its node died
FORWARDED = ("HF_", "LATBENCH_", "TOKENIZERS_", "WANDB_")  # variables of the driver that nodes without them get


class RayExecutor:
    """Jobs on the nodes of a Ray cluster."""

    def __init__(
        self,
        address: str | None = None,
        *,
        num_gpus: float | None = None,
        num_cpus: float = 1,
        needed: Sequence[str] = (),
        shared: bool | None = None,
    ) -> None:
        """Connect to the cluster and look at its nodes.

        Args:
            address: HOST:PORT of the head; None: the cluster that this machine is in, else a new one of it alone.
            num_gpus: that each job has; None: one where any node has one.
            num_cpus: that each job has.
            needed: folders of models and files of own data, which every node must have.
            shared: whether the nodes see the driver's folder of runs; None: it is found out.
        Raises: ValueError: no cluster there, no node is large enough, or a node lacks files or has other versions.
            ModuleNotFoundError: ray is not installed.
        """
        import ray

        self._ray = ray
        self._needed, self._shared = tuple(needed), shared
        self._nodes: dict[str, NodeFacts] = {}
        self._gone: list[str] = []
        _connect(address)
        if num_gpus is None:
            num_gpus = float(any(node["Resources"].get("GPU", 0) >= 1 for node in self._alive()))
        self._resources = {"num_gpus": num_gpus, "num_cpus": num_cpus}
        self._refuse_small_nodes()

    def run(self, jobs: Sequence[Job], on_end: Callable[[JobResult], None]) -> list[JobResult]:
        """See Executor. Ctrl-C stops each training at its next whole step and brings back what can be resumed.

        Raises: ValueError: as the constructor, of what has come since.
        """
        results: dict[str, JobResult] = {}
        waiting, running = list(jobs), dict[str, _Running]()
        roots = {job.root for job in jobs if job.root is not None}
        assert len(roots) <= 1, "the jobs of a call share a folder"
        with _token(next(iter(roots), None)) as token, handling(signal.SIGTERM, signal.default_int_handler):
            self._look_at_nodes(token)
            try:
                while waiting or running:
                    for job in self._startable(waiting, [one.job for one in running.values()]):
                        waiting.remove(job)
                        running[job.name] = self._started(job, token, tries=1)
                    for name, one in list(running.items()):
                        result = self._followed(one, running, token)
                        if result is not None:
                            del running[name]
                            results[name] = result
                            on_end(result)
                            waiting[:0] = () if result.failed else result.job.then
                    time.sleep(POLL)
            except BaseException:
                self._stop(list(running.values()))
                raise
        return in_order(jobs, results)

    def _startable(self, waiting: Sequence[Job], running: Sequence[Job]) -> Iterator[Job]:
        """The next jobs: as many as there is room for, and none that would train what a running one trains."""
        room, claimed = self._room() - len(running), {name for job in running for name in _untrained(job)}
        for job in list(waiting):
            if room > 0 and not claimed & set(_untrained(job)):
                room -= 1
                claimed |= set(_untrained(job))
                yield job

    def _room(self) -> int:
        """Jobs that the cluster can run at once; one at least, which then waits for its node."""
        return max(1, sum(int(min(self._shares(node))) for node in self._alive()))

    def _shares(self, node: Mapping[str, Any]) -> list[float]:
        there = node["Resources"]
        names = {"GPU": self._resources["num_gpus"], "CPU": self._resources["num_cpus"]}
        return [there.get(name, 0) / wanted for name, wanted in names.items() if wanted] or [1.0]

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _refuse_small_nodes(self) -> None:
        for name, kind, option in (("GPU", "num_gpus", "--gpus-per-job"), ("CPU", "num_cpus", "--cpus-per-job")):
            most = max((node["Resources"].get(name, 0) for node in self._alive()), default=0)
            if self._resources[kind] > most:
                raise ValueError(
                    f"each job asks for {self._resources[kind]:g} {name}s, but no node of the cluster has more than "
                    f"{most:g}; lower {option}, or add a larger node"
                )

    def _look_at_nodes(self, token: Path) -> None:
        """Ask each node that was not asked yet. Raises: ValueError: it lacks files, or has other versions."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self._ray.remote(num_cpus=0, max_retries=0)(look)
        data_dir = os.environ.get(DATA_DIR)
        asked = {}
        for node in self._alive():
            if node["NodeID"] not in self._nodes:
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked[node["NodeID"]] = remote.options(scheduling_strategy=place).remote(
                    str(token), data_dir, self._needed
                )
        for name, answer in asked.items():
            try:
                facts: NodeFacts = self._ray.get(answer, timeout=PATIENCE)
            except self._ray.exceptions.RayTaskError as error:
                raise ValueError(
                    f"a node of the cluster cannot run latbench ({_first(error)}); install it there"
                ) from None
            except self._ray.exceptions.RayError:  # it died, or is too busy: its jobs would say so
                continue
            _refuse_node(facts)
            self._nodes[name] = facts

    def _started(self, job: Job, token: Path, *, tries: int) -> _Running:
        """A job on its way to a node."""
        self._look_at_nodes(token)
        facts = [
            self._nodes.get(node["NodeID"]) for node in self._alive()
        ]  # a node that has not answered shares nothing
        shared = self._shared if self._shared is not None else all(one is not None and one.has_token for one in facts)
        root = (job.root or job.log.parent).resolve()
        spec = JobSpec(
            commands=tuple(tuple(_absolute(part, job.root) for part in command[1:]) for command in job.commands),
            root=str(root),
            paths=job.paths,
            shared=shared or job.root is None,
            environment={name: value for name, value in os.environ.items() if name.startswith(FORWARDED)},
            gone=tuple(self._gone),
            place=str(Path.cwd()),
        )
        assert all(command[0] == sys.executable for command in job.commands), "each command is run by Python"
        actor = self._ray.remote(JobActor).options(**self._resources, max_restarts=0, max_task_retries=0).remote(spec)
        return _Running(job, actor, spec, root, tries=tries)

    def _followed(self, one: _Running, running: dict[str, _Running], token: Path) -> JobResult | None:
        """Look at a running job. Returns: how it ended; None while it runs, or is begun again on another node."""
        try:
            returncode = one.follow()
        except self._ray.exceptions.RayActorError as error:
            self._note_lost_nodes()
            with one.job.log.open("ab") as log:
                log.write(f"lost: the node of this job has died ({_first(error)})\n".encode())
            if one.tries <= RETRIES:
                running[one.job.name] = self._started(one.job, token, tries=one.tries + 1)
                return None
            returncode = 1
        if returncode is None:
            return None
        one.close()
        return JobResult(job=one.job, returncode=returncode, last_line=last_line(one.job.log))

    def _note_lost_nodes(self) -> None:
        """Machines all of whose nodes have left, whose locks no longer hold."""
        alive = {node["NodeID"] for node in self._alive()}
        there = {facts.machine for name, facts in self._nodes.items() if name in alive}
        lost = {facts.machine for name, facts in self._nodes.items() if name not in alive}
        self._gone = sorted(lost - there)

    def _stop(self, running: Sequence[_Running]) -> None:
        """Stop the jobs at their next whole step and bring back what they have."""
        for one in running:
            one.stop()
        end = time.monotonic() + GRACE
        left = list(running)
        while left and time.monotonic() < end:
            for one in list(left):
                try:
                    if not one.is_placed or one.follow() is not None:
                        left.remove(one)
                except Exception:  # whatever has died, the others are brought back
                    left.remove(one)
            time.sleep(POLL)
        for one in running:
            one.close()


class _Running:
    """A job on its way to a node, on it, or on its way back."""

    def __init__(self, job: Job, actor: Any, spec: JobSpec, root: Path, *, tries: int) -> None:
        import ray

        self._ray = ray
        self.job, self.tries, self._actor, self._spec, self._root = job, tries, actor, spec, root
        self._here: dict[str, tuple[int, int]] = {}  # files of the node that are here, as they were there
        self._num_synced = 0
        self._ready = actor.files.remote()  # answers once the actor has its node
        self.is_placed = False
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.progress.unlink(missing_ok=True)

    def follow(self) -> int | None:
        """Take over what the node has to say. Returns: the exit code; None while the job runs.

        Raises: RayActorError: the node has died.
        """
        if not self.is_placed:
            ready, _ = self._ray.wait([self._ready], timeout=0)
            if not ready:
                return None
            self._ray.get(self._ready)
            self._send()
            self._ray.get(self._actor.start.remote())
            self.is_placed = True
        state = self._ray.get(self._actor.look.remote())
        with self.job.log.open("ab") as log:
            log.write(state.log)
        if state.reached:
            beside = temporary(self.job.progress)
            beside.write_bytes(state.reached)
            beside.replace(self.job.progress)
        if state.num_ended > self._num_synced or state.returncode is not None:
            self._fetch()
            self._num_synced = state.num_ended
        returncode: int | None = state.returncode
        return returncode

    def stop(self) -> None:
        """Ask the node to stop the job."""
        with suppress(self._ray.exceptions.RayError):
            self._actor.stop.remote()

    def close(self) -> None:
        """Free the node."""
        self.job.progress.unlink(missing_ok=True)
        with suppress(self._ray.exceptions.RayError):
            if self.is_placed:
                self._ray.get(self._actor.clear.remote(), timeout=PATIENCE)
            self._ray.kill(self._actor)

    def _send(self) -> None:
        """Send what the driver has of the job's files."""
        if self._spec.shared:
            return
        for name in (*self.job.reads, *self.job.paths):
            path = self._root / name
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file() and not file.name.startswith("."):
                    for block in _blocks(file):
                        self._ray.get(self._actor.put.remote(file.relative_to(self._root).as_posix(), block))
        self._here = self._ray.get(self._actor.files.remote())

    def _fetch(self) -> None:
        """Bring back the folders that the job writes, each whole: gathered beside, then renamed into place."""
        if self._spec.shared:
            return
        there: dict[str, tuple[int, int]] = self._ray.get(self._actor.files.remote())
        for name in self.job.paths:
            inside = {file: facts for file, facts in there.items() if file.startswith(f"{name}/")}
            if not inside or all(self._here.get(file) == facts for file, facts in inside.items()):
                continue
            beside = self._root / "logs" / f".incoming-{name.replace('/', '-')}"
            remove_at_once(beside)
            for file, facts in inside.items():
                self._fetch_file(file, facts, beside / Path(file).relative_to(name))
            (self._root / name).parent.mkdir(parents=True, exist_ok=True)
            put_in_place(beside, self._root / name)
            self._here |= inside

    def _fetch_file(self, name: str, facts: tuple[int, int], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._here.get(name) == facts and (self._root / name).is_file():
            os.link(self._root / name, target)
            return
        with target.open("wb") as file:
            while file.tell() < facts[0]:
                block = self._ray.get(self._actor.read.remote(name, file.tell()))
                if not block:  # it has shrunk meanwhile
                    break
                file.write(block)
        os.utime(target, ns=(facts[1], facts[1]))  # the latest run is the one trained last


def _untrained(job: Job) -> list[str]:
    """The runs in which a job would train: its own and those that it starts from, as far as they are not complete."""
    assert job.root is not None or not job.paths
    folders = [name for name in job.paths if "/" not in name]
    return [name for name in folders if job.root is not None and not (job.root / name / TRAIN).exists()]


@contextmanager
def _token(root: Path | None) -> Iterator[Path]:
    """A file in the driver's folder that nodes look for to know whether they share it."""
    if root is None:
        yield Path(os.devnull)
        return
    token = root.resolve() / "logs" / f".driver-{uuid.uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _connect(address: str | None) -> None:
    """Join the cluster. Raises: ValueError: there is none at the address."""
    import ray

    if ray.is_initialized():
        return
    absent = f"no Ray cluster answers at {address}; start one there with `ray start --head`, or leave --address out"
    if address is not None:
        host, _, port = address.rpartition(":")
        try:
            if not _speaks_grpc(host, int(port)):
                raise ValueError(absent)
        except (OSError, ValueError, OverflowError):
            raise ValueError(absent) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(absent if address is not None else f"Ray cannot start here: {_first(error)}") from None


def _speaks_grpc(host: str, port: int) -> bool:
    """Whether a server answers as HTTP/2 has it, on which gRPC is built: Ray waits for minutes at any other server.

    Raises: OSError: nothing answers there.
    """
    with socket.create_connection((host, port), timeout=ANSWER) as connection:
        connection.sendall(HELLO)
        head = connection.recv(9)  # of a frame: length, type, flags, stream (RFC 9113, section 4.1)
    return len(head) == 9 and head[3] == SETTINGS


def _refuse_node(facts: NodeFacts) -> None:
    """Raises: ValueError: the node lacks a folder or file, or has other versions than the driver."""
    if facts.absent:
        what = "file" if Path(facts.absent[0]).is_file() else "folder"
        what = "data folder" if facts.absent[0] == facts.data_dir else what
        more = f", or set {DATA_DIR} on that node before `ray start`" if what == "data folder" else ""
        raise ValueError(f"node {facts.host} has no {what} {facts.absent[0]}; copy it there{more}")
    for name, version in software().items():
        if facts.software.get(name) != version:
            raise ValueError(
                f"node {facts.host} has another {name} ({facts.software.get(name)}, here {version}); install the same "
                "on every node, as a run resumes with the versions that it was begun with alone"
            )


def _absolute(argument: str, root: Path | None) -> str:
    """An argument that lies in the folder of runs, as an absolute path."""
    if root is None or not f"{argument}/".startswith(f"{root}/"):
        return argument
    return str(root.resolve()) + argument.removeprefix(str(root))


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield opened.read(BLOCK)
        while block := opened.read(BLOCK):
            yield block


def _first(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
