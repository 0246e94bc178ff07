"""What commands that take `--shard` share: which shard a process answers, and what they say where parts are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latbench.evaluation.shards import Shard, launched


@dataclass(frozen=True, kw_only=True)
class OpenParts:
    """What a process leaves whose part is done while others are not."""

    folder: Path
    """Of what is sharded."""
    done: str
    """The shard that is done, as I/N."""
    open: list[str]
    """Shards whose part is missing or not complete."""

    @classmethod
    def of(cls, folder: Path, shard: Shard, lost: Sequence[Shard]) -> OpenParts:
        """The parts that are left.

        Args:
            folder: of what is sharded.
            shard: the one that is done.
            lost: the shards whose part is missing or not complete.
        """
        return cls(folder=folder, done=str(shard), open=[str(other) for other in lost])

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.open:
            return f"{self.folder}: part {self.done} is done; another process joins the parts"
        return f"{self.folder}: part {self.done} is done, open are {', '.join(self.open)}; the last to end joins them"


def chosen_shard(text: str | None) -> Shard | None:
    """The shard of `--shard`, or of a process that a launcher started; None: all of the work.

    Raises: ValueError: it is not I/N, or both name one.
    """
    shard, of_launcher = None if text is None else Shard.parse(text), launched()
    if shard is not None and of_launcher is not None:
        raise ValueError(
            f"--shard {shard} and a launcher with {of_launcher.count} processes both share the work out; use one"
        )
    return shard or of_launcher
