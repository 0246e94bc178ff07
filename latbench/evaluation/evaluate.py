"""Answer the questions of an evaluation: fixed chunks in file order -> answers -> verdicts -> records, by chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.evaluation.job import EvalJob
from latbench.evaluation.manifest import known_manifest
from latbench.evaluation.plan import check_samples
from latbench.evaluation.records import RECORDS, Manifest, Record, append_records, parse_record, write_manifest
from latbench.runs.lock import is_main_process, locked
from latbench.runs.train import keep
from latbench.task import Example
from latbench.util import heap
from latbench.util.progress import progress

if TYPE_CHECKING:
    from latbench.method import Method


def evaluate_all(jobs: Sequence[EvalJob]) -> list[Path]:
    """Evaluate one after another, once it is known that none of them is refused.

    Returns: the folder of each, see `evaluate`.
    Raises: ValueError, OSError: as `evaluate`.
    """
    for job in jobs:
        _refuse(job)
    return [evaluate(job) for job in jobs]


def evaluate(job: EvalJob) -> Path:
    """Answer and score every question; whole chunks already on file are kept.

    Nothing on file is touched before it is known that the evaluation can go on.

    Returns: the folder with manifest and records.
    Raises: ValueError: the run is unfinished, the data are not at hand, the method cannot decode so, another process
        writes the folder, or the records there are of another setting. OSError: the folder cannot be written.
    """
    if not is_main_process():
        raise ValueError("an evaluation runs in one process; start it without a launcher")
    check_samples(job.run.config, job.settings)
    with locked(job.folder):
        there = _OnFile.of(job)
        if not there.is_complete:
            method = _method(job)
            keep(job.run)
            _run_chunks(job, method, there)
    return job.folder


def _refuse(job: EvalJob) -> None:
    """Raises: ValueError: `evaluate` would refuse this."""
    check_samples(job.run.config, job.settings)
    if not _OnFile.of(job).is_complete:
        _method(job)


def _method(job: EvalJob) -> Method[Any]:
    """The method that answers. Raises: ValueError: it cannot be loaded, or cannot decode so."""
    method = job.run.method
    method.rule(job.settings.generate)
    return method


@dataclass(frozen=True, kw_only=True)
class _OnFile:
    """How far an evaluation has come."""

    records: Path
    """The file of its records, which may be missing."""
    chunks: Sequence[Sequence[Example]]
    """All its questions."""
    num_done: int
    """Leading chunks whose records are all on file."""
    num_bytes: int
    """Of these records; what follows them in the file belongs to no whole chunk."""
    known: Manifest | None
    """The manifest on file."""
    fresh: Manifest
    """The manifest that the evaluation would get today."""

    @classmethod
    def of(cls, job: EvalJob) -> _OnFile:
        """Raises: ValueError: the run is unfinished, no data are at hand, or the records are of another setting."""
        generate = job.settings.generate
        chunks = [job.examples[start : start + generate.chunk] for start in range(0, len(job.examples), generate.chunk)]
        num_done, num_bytes = whole_chunks(job.folder / RECORDS, chunks, generate.samples)
        return cls(
            records=job.folder / RECORDS,
            chunks=chunks,
            num_done=num_done,
            num_bytes=num_bytes,
            known=known_manifest(job.folder, job.manifest, nothing_to_add=num_done == len(chunks)),
            fresh=job.manifest,
        )

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.known is not None and self.known.complete and self.num_done == len(self.chunks)

    def cut(self) -> None:
        """Cut off what belongs to no whole chunk."""
        if self.records.exists() and self.num_bytes < self.records.stat().st_size:
            with self.records.open("rb+") as file:
                file.truncate(self.num_bytes)


def whole_chunks(path: Path, chunks: Sequence[Sequence[Example]], samples: int) -> tuple[int, int]:
    """Number of leading chunks whose records are all on file, and of the bytes that hold them.

    A chunk that was half written, or holds a line that is no record of it, is not whole: it is to be answered again,
    with the same answers.
    """
    if not path.exists():
        return 0, 0
    with path.open("rb") as file:
        lines = file.readlines()
    num_done = kept = 0
    for index, chunk in enumerate(chunks):
        expected = [(example.id, sample, index) for example in chunk for sample in range(samples)]
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


def _run_chunks(job: EvalJob, method: Method[Any], there: _OnFile) -> None:
    """Answer, score and append chunk by chunk; the manifest follows each."""
    import torch

    if method.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(method.backbone.device)  # of what the process did before
    state = replace(
        there.known or there.fresh,
        complete=False,
        backbone=method.backbone.name,
        layout=method.backbone.layout.name,
        dtype=_dtype(method) if job.run.config.model.dtype == "auto" else None,
    )
    write_manifest(job.folder, state)
    there.cut()
    chunks, done = there.chunks, there.num_done
    finished, total = (sum(map(len, part)) for part in (chunks[:done], chunks))
    title = f"{job.run.config.method_name} on {job.settings.task_name}"
    with progress(title, total=total, done=finished) as advance:
        for index in range(done, len(chunks)):
            start = time.monotonic()
            records = answer_chunk(job, method, chunks[index], index)
            append_records(there.records, records)
            state = replace(state, evaluation=_costs(state.evaluation, method, records, time.monotonic() - start))
            write_manifest(job.folder, state)
            heap.release()
            advance(len(chunks[index]))
    write_manifest(job.folder, replace(state, complete=True))


def _dtype(method: Method[Any]) -> str:
    """Of the model's weights, such as `bfloat16`."""
    return str(method.backbone.model.dtype).removeprefix("torch.")


def answer_chunk(job: EvalJob, method: Method[Any], examples: Sequence[Example], index: int) -> list[Record]:
    """Records of one chunk: every sample of a question, question by question."""
    from latbench.decoding.loop import Prompt

    settings = job.settings
    pairs = [(example, sample) for example in examples for sample in range(settings.generate.samples)]
    prompts = [Prompt(id=example.id, text=example.question, sample=sample) for example, sample in pairs]
    generations = method.generate(prompts, settings.generate, seed=settings.seed)
    scores = job.task.score_many(
        [(answer.text, example) for answer, (example, _) in zip(generations, pairs, strict=True)]
    )
    return [
        Record(
            id=example.id,
            sample=sample,
            text=answer.text,
            reasoning=answer.reasoning,
            extracted=score.extracted,
            gold=example.answer,
            status=score.status,
            num_latents=answer.num_latents,
            num_reasoning_tokens=answer.num_reasoning_tokens,
            num_answer_tokens=answer.num_answer_tokens,
            gold_chain_length=method.backbone.num_step_tokens(example),
            num_prompt_tokens=answer.num_prompt_tokens,
            decode_steps=answer.decode_steps,
            stop_reason=answer.stop_reason,
            seed=settings.seed,
            chunk=index,
        )
        for (example, sample), answer, score in zip(pairs, generations, scores, strict=True)
    ]


def _costs(
    before: Mapping[str, float], method: Method[Any], records: Sequence[Record], seconds: float
) -> dict[str, float]:
    """Costs of all sessions so far; operations follow from the records, see measures/answer_cost.py."""
    from latbench.training.cost import peak_memory_bytes

    return {
        "seconds": before.get("seconds", 0.0) + seconds,
        "answers": before.get("answers", 0) + len(records),
        "peak_memory_bytes": max(before.get("peak_memory_bytes", 0), peak_memory_bytes(method.backbone.device)),
    }
