"""Join the parts of a sharded evaluation to one file of records and one manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latbench.evaluation.job import EvalJob
from latbench.evaluation.manifest import circumstances
from latbench.evaluation.on_file import OnFile
from latbench.evaluation.provenance import refuse_others
from latbench.evaluation.records import RECORDS, Manifest, write_manifest
from latbench.evaluation.shards import Shard, remove_parts, shards_of
from latbench.runs.lock import locked
from latbench.util.files import write_whole_bytes


def lost_parts(job: EvalJob) -> list[Shard]:
    """The shards of the division begun in an evaluation whose part is missing or not complete; none where none was.

    Raises: ValueError: the parts there are of several divisions, or a part is of another evaluation.
    """
    return [shard for shard in shards_of(job.folder) if not _is_complete(job, shard)]


def _is_complete(job: EvalJob, shard: Shard) -> bool:
    try:
        return OnFile.of(job, shard).is_complete
    except (ValueError, FileNotFoundError):
        if shard.folder(job.folder).exists():
            raise
        return False  # another process has just joined the parts


def join_whole(job: EvalJob) -> None:
    """Join the parts of an evaluation where all of them are there and complete; else do nothing.

    Raises: ValueError: the parts are of several divisions, of another evaluation, or of different software.
    """
    if shards_of(job.folder) and not lost_parts(job):
        join_parts(job)


def join_parts(job: EvalJob) -> None:
    """Write the evaluation that its parts make, and remove the parts; nothing where another process has done so.

    Killed at any moment, it can be repeated.

    Raises: ValueError: a part is of other software than another.
    """
    with locked(job.folder, for_another=True):
        shards = shards_of(job.folder)
        if not shards:
            return
        parts = [OnFile.of(job, shard) for shard in shards]
        manifest = _joined([(part.folder, part.known) for part in parts if part.known is not None])
        write_manifest(job.folder, replace(manifest, complete=False))
        write_whole_bytes(job.folder / RECORDS, _records(parts, job.settings.generate.samples))
        write_manifest(job.folder, manifest)
        remove_parts(job.folder)


def _records(parts: Sequence[OnFile], samples: int) -> bytes:
    """The records of all parts, in the order of their chunks."""
    blocks: dict[int, bytes] = {}
    for part in (part for part in parts if part.chunks):
        with part.records.open("rb") as file:
            for chunk in part.chunks:
                blocks[chunk.number] = b"".join(file.readline() for _ in range(len(chunk.examples) * samples))
    return b"".join(blocks[number] for number in sorted(blocks))


def _joined(parts: Sequence[tuple[Path, Manifest]]) -> Manifest:
    """The manifest of the whole: that of the first part, with the costs of all. Seconds are those of all processes.

    Raises: ValueError: a part was answered by other software than the first.
    """
    (first_folder, first), *others = parts
    for folder, other in others:
        refuse_others(
            f"{folder} is",
            {**circumstances(other, batch=other.is_rounded), "dtype": str(other.dtype)},
            {**circumstances(first, batch=first.is_rounded), "dtype": str(first.dtype)},
            f"remove it, or {first_folder}, and answer it again",
        )
    costs = [part.evaluation for _, part in parts]
    return replace(
        first,
        complete=True,
        git_dirty=None if first.git_dirty is None else any(part.git_dirty for _, part in parts),
        evaluation={
            "seconds": sum(cost.get("seconds", 0.0) for cost in costs),
            "answers": sum(cost.get("answers", 0) for cost in costs),
            "peak_memory_bytes": max(cost.get("peak_memory_bytes", 0) for cost in costs),
        },
    )
