"""Shards: which chunks a process answers, where its part lies until all parts are there, and how they become one.

<folder>/shards/2-of-8/    of an evaluation, the part with its chunks 2, 10, 18 ... (from 1): manifest and records

A chunk is answered as a whole and its answers depend on nothing outside of it, so that the parts of an evaluation, put
in the order of their chunks, are the bytes of one that was not sharded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from latbench.evaluation.records import SHARDS
from latbench.runs.lock import LOCK, is_held, locked
from latbench.runs.owner import OWNER
from latbench.util.files import remove_at_once

_NAME = re.compile(r"(\d{1,6})-of-(\d{1,6})")
_TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_PATIENCE = timedelta(days=30)  # shards need not end at about the same time


@dataclass(frozen=True, order=True)
class Shard:
    """One of the shares into which the chunks of an evaluation are dealt out in turn."""

    number: int
    """Which of them, from 1."""
    count: int
    """How many there are."""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `--shard` names. Raises: ValueError: it is not I/N with I from 1 to N."""
        found = _TEXT.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise ValueError(f"--shard must be I/N with I from 1 to N, such as 2/8, got {text}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def all(self) -> list[Shard]:
        """It and the others."""
        return [Shard(number, self.count) for number in range(1, self.count + 1)]

    def chunks(self, num_chunks: int) -> range:
        """Indices of its chunks.

        Args:
            num_chunks: of the whole evaluation.
        """
        return range(self.number - 1, num_chunks, self.count)

    def folder(self, whole: Path) -> Path:
        """Where its part lies.

        Args:
            whole: folder of what is sharded.
        """
        return whole / SHARDS / f"{self.number}-of-{self.count}"


def launched() -> Shard | None:
    """The share of this process, one of those that `accelerate launch` or `torchrun` started; they meet here.

    Returns: None where the process was started alone.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return None
    import torch

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return Shard(int(os.environ["RANK"]) + 1, count)


def parts_in(whole: Path) -> list[Shard]:
    """The shards of which something lies in a folder, in order; one that was given up before its first file is none."""
    names = [_NAME.fullmatch(path.name) for path in (whole / SHARDS).glob("*-of-*")]
    shards = [Shard(int(name[1]), int(name[2])) for name in names if name]
    return sorted(shard for shard in shards if _is_begun(shard.folder(whole)))


def _is_begun(part: Path) -> bool:
    return any(path.name not in (LOCK, OWNER) for path in part.glob("*")) or is_held(part)


def shards_of(whole: Path) -> list[Shard]:
    """All shards of the division that was begun in a folder, whether their parts are there or not; none where none was.

    Raises: ValueError: the parts there are of several divisions.
    """
    parts = parts_in(whole)
    if not parts:
        return []
    refuse_other_division(whole, parts[0].count)
    return parts[0].all


def refuse_other_division(whole: Path, count: int) -> None:
    """Refuse parts of another number of shards than is wanted.

    Args:
        whole: folder of what is sharded.
        count: number of shards that are wanted.
    Raises: ValueError: a part of another number of shards lies there.
    """
    other = next((shard for shard in parts_in(whole) if shard.count != count), None)
    if other is not None:
        raise ValueError(
            f"{whole / SHARDS} holds part {other}, which does not join with parts of {count}; go on with {other.count} "
            f"shards (--shard I/{other.count} or --shards {other.count}), or remove that folder to answer anew"
        )


@contextmanager
def owned(whole: Path, shard: Shard | None) -> Iterator[Path]:
    """Hold a folder, or the part of one shard in it, against other writers.

    Args:
        whole: folder of what may be sharded.
        shard: whose part is held; None: the whole folder, in which no part may be held by others.
    Returns: the folder to write in.
    Raises: ValueError: another process writes there, or parts of another number of shards lie there.
    """
    if shard is None:
        with locked(whole):
            for other in parts_in(whole):
                _refuse_held(other.folder(whole))
            yield whole
        return
    refuse_other_division(whole, shard.count)
    with locked(shard.folder(whole), every_process=True):  # held before the others are looked at, as they do in turn
        refuse_other_division(whole, shard.count)
        _refuse_held(whole)
        yield shard.folder(whole)


def _refuse_held(folder: Path) -> None:
    if is_held(folder):
        raise ValueError(f"{folder} is being written by another process; wait for it or end it first")


def refuse_lost(whole: Path, lost: Sequence[Shard], command: str) -> None:
    """Refuse to go on where parts are missing.

    Args:
        whole: folder of what is sharded.
        lost: the shards whose part is missing or not complete.
        command: that answers a part, such as `eval`.
    Raises: ValueError: there is such a shard; the sentence names the parts.
    """
    if lost:
        names = ", ".join(map(str, lost[:8])) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        what = f"part {names} is" if len(lost) == 1 else f"parts {names} are"
        raise ValueError(
            f"{what} missing or not complete in {whole / SHARDS}; run {command} with --shard {lost[0]}, "
            "copy it from where it was answered, or remove that folder to answer everything anew"
        )


def remove_parts(whole: Path) -> None:
    """Remove the parts, once what they make is on file."""
    remove_at_once(whole / SHARDS)
