"""How far an evaluation, or one shard of it, has come: which chunks are whole on file, under which manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latbench.evaluation.job import EvalJob
from latbench.evaluation.manifest import known_manifest
from latbench.evaluation.records import RECORDS, Manifest, parse_record
from latbench.evaluation.shards import Shard
from latbench.task import Example


class Chunk(NamedTuple):
    """Questions that are answered together."""

    number: int
    """Its place among all chunks of the evaluation, from 0."""
    examples: Sequence[Example]
    """The questions, in file order."""


@dataclass(frozen=True, kw_only=True)
class OnFile:
    """How far an evaluation, or one shard of it, has come."""

    folder: Path
    """Of its records and its manifest, which may be missing."""
    chunks: Sequence[Chunk]
    """All that it has to answer."""
    num_done: int
    """Leading ones of these whose records are all on file."""
    num_bytes: int
    """Of these records; what follows them in the file belongs to no whole chunk."""
    known: Manifest | None
    """The manifest on file."""
    fresh: Manifest
    """The manifest that it would get today."""

    @classmethod
    def of(cls, job: EvalJob, shard: Shard | None = None) -> OnFile:
        """Look at the files.

        Args:
            job: the evaluation.
            shard: of it; None: the whole.
        Raises: ValueError: the run is unfinished, no data are at hand, or the records are of another setting.
        """
        generate = job.settings.generate
        folder = job.folder if shard is None else shard.folder(job.folder)
        chunks = chunks_of(job, shard)
        num_done, num_bytes = whole_chunks(folder / RECORDS, chunks, generate.samples)
        return cls(
            folder=folder,
            chunks=chunks,
            num_done=num_done,
            num_bytes=num_bytes,
            known=known_manifest(folder, job.manifest, nothing_to_add=num_done == len(chunks)),
            fresh=job.manifest,
        )

    @property
    def records(self) -> Path:
        """The file of its records, which may be missing."""
        return self.folder / RECORDS

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.known is not None and self.known.complete and self.num_done == len(self.chunks)

    @property
    def done(self) -> Sequence[Chunk]:
        """The chunks that are whole on file."""
        return self.chunks[: self.num_done]

    @property
    def left(self) -> Sequence[Chunk]:
        """The chunks that are still to be answered."""
        return self.chunks[self.num_done :]

    def cut(self) -> None:
        """Cut off what belongs to no whole chunk."""
        if self.records.exists() and self.num_bytes < self.records.stat().st_size:
            with self.records.open("rb+") as file:
                file.truncate(self.num_bytes)


def chunks_of(job: EvalJob, shard: Shard | None) -> list[Chunk]:
    """The chunks of an evaluation that a shard answers, in order.

    Args:
        job: the evaluation.
        shard: of it; None: the whole.
    """
    size = job.settings.generate.chunk
    chunks = [
        Chunk(number, job.examples[start : start + size])
        for number, start in enumerate(range(0, len(job.examples), size))
    ]
    return chunks if shard is None else [chunks[number] for number in shard.chunks(len(chunks))]


def whole_chunks(path: Path, chunks: Sequence[Chunk], samples: int) -> tuple[int, int]:
    """Number of leading chunks whose records are all on file, and of the bytes that hold them.

    A chunk that was half written, or holds a line that is no record of it, is not whole: it is to be answered again,
    with the same answers.
    """
    if not path.exists():
        return 0, 0
    with path.open("rb") as file:
        lines = file.readlines()
    num_done = kept = 0
    for chunk in chunks:
        expected = [(example.id, sample, chunk.number) for example in chunk.examples for sample in range(samples)]
        block = lines[kept : kept + len(expected)]
        if [_key(line) for line in block] != expected:
            break
        kept += len(block)
        num_done += 1
    return num_done, sum(map(len, lines[:kept]))


def _key(line: bytes) -> tuple[str, int, int] | None:
    """(id, sample, chunk) of a whole record line; None of anything else."""
    try:
        record = parse_record(line.decode())
    except ValueError:
        return None
    return (record.id, record.sample, record.chunk) if line.endswith(b"\n") else None
