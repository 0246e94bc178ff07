"""Locks: one writer per folder on one machine and on several, and what a dead holder leaves behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from latbench.runs.lock import LOCK, is_held, locked
from latbench.runs.owner import GONE, OWNER, Owner, claim, release

ELSEWHERE = replace(Owner.here(waits=False), machine="another-boot", host="node7", node=1, process=12, started=1.0)


def hold(folder: Path, owner: Owner) -> None:
    folder.mkdir(exist_ok=True)
    (folder / LOCK).touch()
    (folder / OWNER).write_text(json.dumps(asdict(owner)))


def test_a_holder_on_another_machine_is_refused_by_name(tmp_path: Path) -> None:
    hold(tmp_path, ELSEWHERE)
    assert is_held(tmp_path)
    sentence = r"is being written by process 12 on node7; .* if that machine has died, remove .*\.owner"
    with pytest.raises(ValueError, match=sentence), locked(tmp_path):
        pass
    assert json.loads((tmp_path / OWNER).read_text()) == asdict(ELSEWHERE)


@pytest.mark.parametrize(
    "dead",
    [
        replace(Owner.here(waits=False), process=1),  # on this machine flock is free
        replace(Owner.here(waits=False), machine="before-the-reboot", process=12),
        ELSEWHERE,
    ],
    ids=["here", "rebooted", "told"],
)
def test_a_dead_holder_is_followed(tmp_path: Path, dead: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GONE, "some,another-boot")
    hold(tmp_path, dead)
    assert not is_held(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


def test_without_flock_the_owner_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with locked(tmp_path / "a"):
        assert is_held(tmp_path / "a")
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on"), locked(tmp_path / "a"):
            pass
    assert not is_held(tmp_path / "a")
    hold(tmp_path / "b", replace(Owner.here(waits=False), started=1.0))  # the id is another's by now
    with locked(tmp_path / "b"):
        assert is_held(tmp_path / "b")


def test_of_many_that_claim_at_once_one_holds(tmp_path: Path) -> None:
    owners = [replace(ELSEWHERE, machine=f"m{number}", process=number) for number in range(16)]
    won: list[Owner] = []
    start = threading.Barrier(len(owners))

    def run(owner: Owner) -> None:
        start.wait()
        if claim(tmp_path, owner, here_is_dead=True) is None:
            won.append(owner)

    threads = [threading.Thread(target=run, args=[owner]) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [path.name for path in tmp_path.iterdir()] == [OWNER]
    release(tmp_path, replace(won[0], process=99))
    assert (tmp_path / OWNER).exists(), "of somebody else"
    release(tmp_path, won[0])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_frees_its_folder(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from latbench.runs.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})): os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 9
    assert (tmp_path / OWNER).exists()
    with locked(tmp_path):
        assert is_held(tmp_path)
    assert not (tmp_path / OWNER).exists()
