"""Latent steps of a run's answers, stored beside the records: what `inspect` and the trace metrics read.

<run>/eval/<task>-<split>/trace/chunk-00000.safetensors   one per chunk of questions, with the header in its metadata
                                trace.json                the header; written last: the trace is complete

A chunk holds, for all latent steps of its rows (question by question, each with its samples) one after another, ids
int32 and weights float32 (latent, top_k), entropy and norm float32 (latent,), embeds float16 (latent, hidden), and
counts int64 (row,), the latent steps of each row. Where the method can read its latents as text, the metadata has the
texts too, a JSON list per row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as config_dataclass
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import StepRule
from latbench.decoding.trace import LatentTrace
from latbench.evaluation.evaluate import questions
from latbench.evaluation.manifest import new_manifest
from latbench.evaluation.plan import EvalConfig, eval_folder
from latbench.evaluation.records import SAME_ANSWERS, TRACE, TRACE_HEADER, Manifest
from latbench.runs.lock import is_main_process, locked
from latbench.runs.run import Run
from latbench.task import STRICT, Example, Task
from latbench.util.files import temporary, write_whole
from latbench.util.progress import progress

TEXTS = "texts"  # of the latent steps, in a chunk's metadata
_COLUMNS = tuple(f.name for f in fields(LatentTrace) if f.name != TEXTS)  # each with the steps as its first axis

Count = Annotated[int, Field(ge=1)]


class NoLatentStepsError(ValueError):
    """There is nothing to trace."""


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class Header:
    """What a trace belongs to and how it is cut; fields as in the manifest of the evaluation beside it.

    Args:
        n: rows, questions x samples; samples: rows per question; chunk: questions per file.
        top_k: most entries kept per latent step.
    """

    format_version: Literal[1] = 1
    run: str
    setting: str
    questions_sha256: str
    n: Annotated[int, Field(ge=0)]
    samples: Count
    chunk: Count
    top_k: Count
    git_commit: str | None
    versions: dict[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> Header:
        """The header of the trace of an evaluation."""
        generate = manifest.config["generate"]
        return cls(
            run=manifest.run,
            setting=manifest.setting,
            questions_sha256=manifest.questions_sha256,
            n=manifest.n,
            samples=generate["samples"],
            chunk=generate["chunk"],
            top_k=generate["trace_top_k"],
            git_commit=manifest.git_commit,
            versions=manifest.versions,
        )

    @property
    def num_rows(self) -> list[int]:
        """Rows of each chunk."""
        whole = self.chunk * self.samples
        return [min(whole, self.n - start) for start in range(0, self.n, whole)]


_HEADER = TypeAdapter(Header)


def trace(run: Run, wanted: EvalConfig, asked: tuple[Task[Any], list[Example]] | None = None) -> Path:
    """Answer every question and store its latent steps; whole chunks already on file are kept.

    Args:
        asked: `questions(wanted)`, where the caller has read them already.
    Returns: the folder, for `Traces.open`.
    Raises: NoLatentStepsError: the run takes none. ValueError: the run is unfinished, the data are not at hand,
        another process writes the folder, or the trace there is of something else. OSError: it cannot be written.
    """
    if not is_main_process():
        raise ValueError("a trace is made in one process; start it without a launcher")
    run = run.with_helpers_for("read_latents")
    task, examples = asked or questions(wanted)
    header = Header.of(new_manifest(run, wanted, task.fingerprint(wanted.split), examples))
    folder = eval_folder(run, wanted) / TRACE
    if not folder.exists():
        _refuse_text_alone(run, wanted)  # before anything is made
    with locked(folder):
        if not _is_complete(folder, header):
            _trace_chunks(run, wanted, examples, header, folder)
    return folder


def _refuse_text_alone(run: Run, wanted: EvalConfig) -> None:
    """Raises: NoLatentStepsError: the rule is that of plain text, which needs no answer to be known."""
    if type(run.method.rule(wanted.generate)).step is StepRule.step:
        raise _no_latents(run)


def _no_latents(run: Run) -> NoLatentStepsError:
    name = run.config.method_name
    return NoLatentStepsError(f"run {run.folder.name} takes no latent steps (method {name!r}); trace one that does")


def _is_complete(folder: Path, header: Header) -> bool:
    """Whether all is there, whatever version of latbench wrote it. Raises: ValueError: it is of something else."""
    try:
        known = Traces.open(folder).header
    except ValueError:  # absent or damaged: chunk by chunk
        return False
    _refuse_other(folder, known, replace(header, git_commit=known.git_commit, versions=known.versions))
    return True


def _trace_chunks(run: Run, wanted: EvalConfig, examples: Sequence[Example], header: Header, folder: Path) -> None:
    """Trace the chunks that are absent or damaged, then write the header."""
    counts = [_known_counts(folder, index, header) for index in range(len(header.num_rows))]
    done = sum(rows for rows, known in zip(header.num_rows, counts, strict=True) if known is not None)
    method, samples = run.method, range(header.samples)
    with progress(f"trace of {run.config.method_name} on {wanted.task_name}", total=header.n, done=done) as advance:
        for index, known in enumerate(counts):
            if known is not None:
                continue
            chunk = examples[index * header.chunk :][: header.chunk]
            prompts = [Prompt(id=row.id, text=row.question, sample=sample) for row in chunk for sample in samples]
            answers = method.generate(prompts, wanted.generate, seed=wanted.seed, trace=True)
            tensors = _tensors(answers)
            _write_chunk(_chunk_path(folder, index), tensors, header, _texts(answers))
            counts[index] = tensors["counts"]
            advance(len(prompts))
    if not sum(int(rows.sum()) for rows in counts if rows is not None):
        raise _no_latents(run)
    write_whole(folder / TRACE_HEADER, _HEADER.dump_json(header, indent=2).decode() + "\n")


def _tensors(answers: Sequence[Generation]) -> dict[str, Tensor]:
    """A chunk's tensors by name; rows without latent steps add nothing but their count."""
    traces = [answer.trace or empty_trace() for answer in answers]
    counts = torch.tensor([len(row.entropy) for row in traces], dtype=torch.int64)
    taken = [row for row in traces if len(row.entropy)] or traces[:1]
    whole = {name: torch.cat([getattr(row, name) for row in taken]) for name in _COLUMNS}
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


def _write_chunk(path: Path, tensors: dict[str, Tensor], header: Header, texts: list[list[str]] | None = None) -> None:
    """Write beside and rename."""
    metadata = {"header": _HEADER.dump_json(header).decode()} | ({TEXTS: json.dumps(texts)} if texts else {})
    data = safetensors.torch.save(tensors, metadata=metadata)
    beside = temporary(path)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _known_counts(folder: Path, index: int, header: Header) -> Tensor | None:
    """Counts of a chunk on file; None where it is absent or damaged. Raises: ValueError: it is of something else."""
    path = _chunk_path(folder, index)
    try:
        there, counts = _read_counts(path)
    except ValueError:
        return None
    _refuse_other(folder, there, header)
    return counts if len(counts) == header.num_rows[index] else None


def _chunk_path(folder: Path, index: int) -> Path:
    return folder / f"chunk-{index:05d}.safetensors"


def _read_counts(path: Path) -> tuple[Header, Tensor]:
    """Header and (row,) counts of a chunk, whose columns must be as long as the counts say.

    Raises: ValueError: absent or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = _HEADER.validate_json((file.metadata() or {}).get("header", ""))
            counts: Tensor = file.get_tensor("counts")
            lengths = {file.get_slice(name).get_shape()[0] for name in _COLUMNS}
    except (OSError, SafetensorError, ValidationError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}); trace the run again") from None
    if counts.dtype != torch.int64 or counts.dim() != 1 or (counts < 0).any() or lengths != {int(counts.sum())}:
        raise ValueError(f"{path} is damaged; trace the run again")
    return header, counts


def _read_header(folder: Path) -> Header:
    """Raises: ValueError: the trace is absent or incomplete, or its header is damaged."""
    path = folder / TRACE_HEADER
    try:
        return _HEADER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"no complete trace in {folder}; make one with `latbench trace`") from None
    except ValidationError:
        raise ValueError(f"{path} is no header of a trace that this version reads; trace the run again") from None


def _refuse_other(folder: Path, there: Header, here: Header, names: Sequence[str] | None = None) -> None:
    """Raises: ValueError: the headers differ in one of these fields (None: in any)."""
    for name in names or [f.name for f in fields(Header)]:
        found, wanted = getattr(there, name), getattr(here, name)
        if found != wanted:
            raise ValueError(
                f"{folder} holds the trace of another {name} ({found}, now {wanted}); remove the folder to trace anew"
            )


class Traces:
    """A complete trace on disk; rows are read as they are asked for.

    Args:
        folder, header: where it is, what it belongs to.
        ends: of each chunk (row + 1,), where its rows end among the chunk's latent steps, after a leading zero.
    """

    def __init__(self, folder: Path, header: Header, ends: Sequence[Tensor]) -> None:
        self.folder = folder
        self.header = header
        self._ends = ends

    @classmethod
    def open(cls, folder: Path, of: Manifest | None = None) -> Traces:
        """The trace in a folder.

        Args:
            of: the evaluation it is read with; None: any.
        Raises: ValueError: absent, incomplete, damaged, of another run, setting or other questions than `of`, or its
            chunks are of several traces.
        """
        header = _read_header(folder)
        if of is not None:
            _refuse_other(folder, header, Header.of(of), SAME_ANSWERS)
        ends = []
        for index, num_rows in enumerate(header.num_rows):
            path = _chunk_path(folder, index)
            there, counts = _read_counts(path)
            _refuse_other(folder, there, header)
            if len(counts) != num_rows:
                raise ValueError(f"{path} holds {len(counts)} rows instead of {num_rows}; trace the run again")
            ends.append(torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        return cls(folder, header, ends)

    @property
    def num_questions(self) -> int:
        """Questions, each with `header.samples` rows."""
        return self.header.n // self.header.samples

    @property
    def num_latents(self) -> int:
        """Latent steps of all rows."""
        return sum(int(ends[-1]) for ends in self._ends)

    def get(self, question: int, sample: int = 0) -> LatentTrace:
        """Latent steps of one answer, without any where the row took none.

        Args:
            question: index in the order asked; sample: 0-based.
        Returns: weights and embeds in float32 again.
        Raises: IndexError: no such row. ValueError: the file is gone or damaged.
        """
        if not (0 <= question < self.num_questions and 0 <= sample < self.header.samples):
            raise IndexError(f"no question {question}, sample {sample} in {self.folder}")
        chunk, place = divmod(question, self.header.chunk)
        row = place * self.header.samples + sample
        start, end = self._ends[chunk][row : row + 2].tolist()
        path = _chunk_path(self.folder, chunk)
        try:
            with safe_open(path, "pt") as file:
                found = {name: file.get_slice(name)[start:end] for name in _COLUMNS}
                texts = (file.metadata() or {}).get(TEXTS)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); trace the run again") from None
        wide = {name: part.float() if part.is_floating_point() else part for name, part in found.items()}
        return LatentTrace(**wide, texts=None if texts is None else json.loads(texts)[row])
