"""Store the latent steps of a run's answers beside the records; `latents.py` says how, and reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from latbench.decoding.latent_trace import LatentTrace
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import StepRule
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import TRACE, TRACE_HEADER
from latbench.evaluation.shards import Shard, owned, remove_parts
from latbench.measures.latents import (
    COLUMNS,
    HEADER,
    TEXTS,
    StoredTrace,
    TraceHeader,
    chunk_path,
    read_counts,
    refuse_other_trace,
)
from latbench.runs.lock import is_main_process, locked, wait_for_all
from latbench.util.files import write_whole, write_whole_bytes
from latbench.util.progress import progress


class NoLatentStepsError(ValueError):
    """There is nothing to trace."""


def trace(job: EvalJob, shard: Shard | None = None) -> Path:
    """Answer every question and store its latent steps; whole chunks already on file are kept.

    Args:
        job: the evaluation, which need not have been made.
        shard: trace its chunks alone; the trace is complete once the last shard has ended. None: all chunks.
    Returns: the folder, for `StoredTrace.open`.
    Raises: NoLatentStepsError: the run takes none. ValueError: the run is unfinished, the data are not at hand,
        another process writes the folder, or the trace there is of something else. OSError: it cannot be written.
    """
    if shard is None and not is_main_process():
        raise ValueError("a trace without shards is made in one process; start it without a launcher")
    header = _header(job)
    folder = job.folder / TRACE
    if shard is not None and _is_complete(folder, header):
        return folder
    with owned(folder, shard):
        if not _is_complete(folder, header):
            numbers = range(len(header.num_rows))
            _trace_chunks(job, header, folder, numbers if shard is None else shard.chunks(len(numbers)))
    wait_for_all()
    if is_main_process() and not lost_shards(job, shard or Shard(1, 1)):
        _finish(job, header, folder)
    wait_for_all()
    return folder


def lost_shards(job: EvalJob, shard: Shard) -> list[Shard]:
    """The shards of which a chunk is not on file.

    Args:
        job: the evaluation.
        shard: any of its shards.
    Raises: ValueError: a chunk there is of something else.
    """
    header, folder = _header(job), job.folder / TRACE
    if _is_complete(folder, header):
        return []
    known = [_known_counts(folder, number, header) is not None for number in range(len(header.num_rows))]
    return [other for other in shard.all if not all(known[number] for number in other.chunks(len(known)))]


def _header(job: EvalJob) -> TraceHeader:
    generate = job.settings.generate
    return TraceHeader.of(job.manifest, samples=generate.samples, chunk=generate.chunk, top_k=generate.trace_top_k)


def _no_latents(job: EvalJob) -> NoLatentStepsError:
    name = job.run.config.method_name
    return NoLatentStepsError(f"run {job.run.folder.name} takes no latent steps (method {name!r}); trace one that does")


def _is_complete(folder: Path, header: TraceHeader) -> bool:
    """Whether all is there, whatever version of latbench wrote it. Raises: ValueError: it is of something else."""
    try:
        known = StoredTrace.open(folder).header
    except ValueError:  # absent or damaged: chunk by chunk
        return False
    refuse_other_trace(folder, known, replace(header, git_commit=known.git_commit, versions=known.versions))
    return True


def _trace_chunks(job: EvalJob, header: TraceHeader, folder: Path, numbers: Sequence[int]) -> None:
    """Trace those of some chunks that are absent or damaged."""
    left = [number for number in numbers if _known_counts(folder, number, header) is None]
    settings, samples = job.settings, range(header.samples)
    method = job.run.with_helpers_for("read_latents").method
    if type(method.rule(settings.generate)).step is StepRule.step:  # of plain text: no answer is needed to know
        raise _no_latents(job)
    title = f"trace of {job.run.config.method_name} on {settings.task_name}"
    total, open_rows = (sum(header.num_rows[number] for number in part) for part in (numbers, left))
    with progress(title, total=total, done=total - open_rows) as advance:
        for number in left:
            chunk = job.examples[number * header.chunk :][: header.chunk]
            prompts = [Prompt(id=row.id, text=row.question, sample=sample) for row in chunk for sample in samples]
            answers = method.generate(prompts, settings.generate, seed=settings.seed, trace=True)
            _write_chunk(chunk_path(folder, number), _tensors(answers), header, _texts(answers))
            advance(len(prompts))


def _finish(job: EvalJob, header: TraceHeader, folder: Path) -> None:
    """Write the header, which says that all chunks are there. Raises: NoLatentStepsError: no answer took any step."""
    with locked(folder, for_another=True):
        if _is_complete(folder, header):
            return
        counts = [_known_counts(folder, number, header) for number in range(len(header.num_rows))]
        if not sum(int(rows.sum()) for rows in counts if rows is not None):
            raise _no_latents(job)
        write_whole(folder / TRACE_HEADER, HEADER.dump_json(header, indent=2).decode() + "\n")
        remove_parts(folder)


def _tensors(answers: Sequence[Generation]) -> dict[str, Tensor]:
    """A chunk's tensors by name; rows without latent steps add nothing but their count."""
    traces = [answer.trace or empty_trace() for answer in answers]
    counts = torch.tensor([len(row.entropy) for row in traces], dtype=torch.int64)
    taken = [row for row in traces if len(row.entropy)] or traces[:1]
    whole = {name: torch.cat([getattr(row, name) for row in taken]) for name in COLUMNS}
    whole["weights"] = whole["weights"].float()  # half precision would lose the tail of a certain step
    half = whole["embeds"].half()
    whole["embeds"] = half if half.isfinite().all() else whole["embeds"].float()  # some models' embeddings are huge
    return {name: tensor.contiguous() for name, tensor in whole.items()} | {"counts": counts}


def _texts(answers: Sequence[Generation]) -> list[list[str]] | None:
    """A chunk's texts, row by row; None where the method reads none."""
    texts = [answer.trace.texts if answer.trace else None for answer in answers]
    return None if all(row is None for row in texts) else [row or [] for row in texts]


def empty_trace() -> LatentTrace:
    """The trace of a row without latent steps."""
    none, nothing = torch.zeros(0), torch.zeros(0, 0)
    return LatentTrace(ids=nothing.int(), weights=nothing, entropy=none, norm=none, embeds=nothing)


def _write_chunk(
    path: Path, tensors: dict[str, Tensor], header: TraceHeader, texts: list[list[str]] | None = None
) -> None:
    """Write beside and rename."""
    metadata = {"header": HEADER.dump_json(header).decode()} | ({TEXTS: json.dumps(texts)} if texts else {})
    write_whole_bytes(path, safetensors.torch.save(tensors, metadata=metadata))


def _known_counts(folder: Path, index: int, header: TraceHeader) -> NDArray[np.int64] | None:
    """Counts of a chunk on file; None where it is absent or damaged. Raises: ValueError: it is of something else."""
    try:
        there, counts = read_counts(chunk_path(folder, index))
    except ValueError:
        return None
    refuse_other_trace(folder, there, header)
    return counts if len(counts) == header.num_rows[index] else None
