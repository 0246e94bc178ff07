"""Read the stored trace of an evaluation, without torch; `trace.py` makes it.

<run>/eval/<task>-<split>/trace/chunk-00000.safetensors   one per chunk of questions, with the header in its metadata
                                trace.json                the header; written last: the trace is complete

A chunk holds, for all latent steps of its rows (question by question, each with its samples) one after another, ids
int32 and weights float32 (latent, top_k), entropy and norm float32 (latent,), embeds float16 (latent, hidden), and
counts int64 (row,), the latent steps of each row. Where the method can read its latents as text, the metadata has the
texts too, a JSON list per row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.evaluation.provenance import Provenance, refuse_others
from latbench.evaluation.records import TRACE, TRACE_HEADER, Manifest
from latbench.measures.measure_files import LatentStep
from latbench.task import STRICT
from latbench.util.files import read_bounded

TEXTS = "texts"  # of the latent steps, in a chunk's metadata
COLUMNS = ("ids", "weights", "entropy", "norm", "embeds")  # each with the latent steps as its first axis
MAX_HEADER = 100_000  # bytes of trace.json

Count = Annotated[int, Field(ge=1)]


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class TraceHeader(Provenance):
    """What a trace belongs to and how it is cut."""

    format_version: Literal[1] = 1
    """Of the files."""
    samples: Count
    """Rows of a question."""
    chunk: Count
    """Questions of a file."""
    top_k: Count
    """Most entries kept of a latent step."""

    @property
    def num_rows(self) -> list[int]:
        """Rows of each chunk."""
        whole = self.chunk * self.samples
        return [min(whole, self.n - start) for start in range(0, self.n, whole)]

    @property
    def all_fields(self) -> Mapping[str, object]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


HEADER = TypeAdapter(TraceHeader)


@dataclass(frozen=True, kw_only=True)
class AnswerLatents:
    """The latent steps of one answer, as they are on file."""

    ids: NDArray[np.int32]
    """(latent, top_k) largest entries of each step's distribution, by falling weight."""
    weights: NDArray[np.float32]
    """(latent, top_k) their weights."""
    entropy: NDArray[np.float32]
    """(latent,) of the whole distribution, in nats."""
    norm: NDArray[np.float32]
    """(latent,) of what was fed."""
    embeds: NDArray[np.float32]
    """(latent, hidden) as they were fed, kept in half precision."""
    texts: list[str] | None
    """What the method's helper model reads in each; None where it has none."""

    def __len__(self) -> int:
        return len(self.entropy)


class StoredTrace:
    """A complete trace on disk; the latent steps of an answer are read as they are asked for."""

    def __init__(self, folder: Path, header: TraceHeader, ends: Sequence[NDArray[np.int64]]) -> None:
        """Not to be called from elsewhere, see `open`.

        Args:
            folder: of the trace.
            header: what it belongs to.
            ends: of each chunk (row + 1,), where its rows end among the chunk's latent steps, after a leading zero.
        """
        self.folder = folder
        self.header = header
        self._ends = ends
        self._kept: dict[tuple[int, str], NDArray[Any]] = {}  # by chunk and column

    @classmethod
    def open(cls, folder: Path, of: Manifest | None = None) -> StoredTrace:
        """The trace in a folder.

        Args:
            folder: of the trace.
            of: the evaluation that it is read with; None: any.
        Raises: ValueError: absent, incomplete, damaged, of another run, setting or other questions than `of`, or its
            chunks are of several traces.
        """
        header = _read_header(folder)
        if of is not None:
            refuse_others(*_other_trace(folder, header.answers, Provenance.of(of).answers))
        ends = []
        for index, num_rows in enumerate(header.num_rows):
            path = chunk_path(folder, index)
            there, counts = read_counts(path)
            refuse_other_trace(folder, there, header)
            if len(counts) != num_rows:
                raise ValueError(f"{path} holds {len(counts)} rows instead of {num_rows}; trace the run again")
            ends.append(np.concatenate([np.zeros(1, np.int64), counts.cumsum()]))
        return cls(folder, header, ends)

    @property
    def num_questions(self) -> int:
        """Questions, each with `header.samples` rows."""
        return self.header.n // self.header.samples

    @property
    def num_latents(self) -> int:
        """Latent steps of all rows."""
        return sum(int(ends[-1]) for ends in self._ends)

    def get(self, question: int, sample: int = 0) -> AnswerLatents:
        """Latent steps of one answer, without any where the row took none.

        Args:
            question: index in the order asked.
            sample: 0-based.
        Returns: weights and embeds in float32 again.
        Raises: IndexError: no such row. ValueError: the file is gone or damaged.
        """
        if not (0 <= question < self.num_questions and 0 <= sample < self.header.samples):
            raise IndexError(f"no question {question}, sample {sample} in {self.folder}")
        chunk, row, start, end = self._place(question * self.header.samples + sample)
        with _opened(chunk_path(self.folder, chunk)) as file:
            found: dict[str, Any] = {name: _part(file, name, start, end) for name in COLUMNS}
            texts = (file.metadata() or {}).get(TEXTS)
        return AnswerLatents(**found, texts=None if texts is None else json.loads(texts)[row])

    def columns(self, row: int, names: Sequence[str]) -> Iterator[NDArray[Any]]:
        """Some columns of one answer; those of a whole chunk are kept for the next.

        Args:
            row: place of the answer's record in the file of records.
            names: of `COLUMNS`.
        Raises: ValueError: no such row, or the file is gone or damaged.
        """
        if not 0 <= row < self.header.n:
            raise ValueError(f"no row {row} in {self.folder}")
        chunk, _, start, end = self._place(row)
        if self._kept.keys() != {(chunk, name) for name in names}:
            with _opened(chunk_path(self.folder, chunk)) as file:
                self._kept = {(chunk, name): file.get_tensor(name) for name in names}
        return (self._kept[chunk, name][start:end] for name in names)

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """Of a row: number of its chunk, place in it, and where its latent steps begin and end in the chunk."""
        chunk, place = divmod(row, self.header.chunk * self.header.samples)
        start, end = self._ends[chunk][place : place + 2].tolist()
        return chunk, place, start, end


class StoredLatents:
    """The latent steps of a stored trace as text: what a page shows."""

    def __init__(self, trace: StoredTrace, decode: Callable[[int], str]) -> None:
        """Read them from a trace.

        Args:
            trace: of the evaluation.
            decode: token id -> text.
        """
        self._trace, self._decode = trace, decode

    def get(self, row: int, top: int) -> tuple[LatentStep, ...]:
        """Latent steps of one answer, with at most `top` tokens each.

        Args:
            row: place of the answer's record in the file of records.
            top: tokens of a step.
        Raises: ValueError: no such row, or the trace is damaged.
        """
        columns = (column.tolist() for column in self._trace.columns(row, ("entropy", "ids", "weights")))
        return tuple(
            LatentStep(
                entropy=entropy,
                tokens=tuple((self._decode(i), weight) for i, weight in zip(ids[:top], weights[:top], strict=True)),
            )
            for entropy, ids, weights in zip(*columns, strict=True)
        )


def stored_latents(
    folder: Path, manifest: Manifest, decode: Callable[[int], str] = "#{}".format
) -> StoredLatents | None:
    """The latent steps of an evaluation as text; None where it has no trace that is complete and of its answers.

    Args:
        folder: of the evaluation.
        manifest: of the evaluation.
        decode: token id -> text, where no tokenizer is at hand in the run's checkpoint.
    """
    try:
        return StoredLatents(StoredTrace.open(folder / TRACE, of=manifest), _decoder(folder) or decode)
    except ValueError:
        return None


def chunk_path(folder: Path, index: int) -> Path:
    """The file of a chunk.

    Args:
        folder: of the trace.
        index: number of the chunk.
    """
    return folder / f"chunk-{index:05d}.safetensors"


def read_counts(path: Path) -> tuple[TraceHeader, NDArray[np.int64]]:
    """Header and (row,) counts of a chunk, whose columns must be as long as the counts say.

    Args:
        path: of the chunk.
    Raises: ValueError: absent or damaged.
    """
    with _opened(path) as file:
        header = HEADER.validate_json((file.metadata() or {}).get("header", ""))
        counts: NDArray[np.int64] = file.get_tensor("counts")
        lengths = {file.get_slice(name).get_shape()[0] for name in COLUMNS}
    if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any() or lengths != {int(counts.sum())}:
        raise ValueError(f"{path} is damaged; trace the run again")
    return header, counts


def refuse_other_trace(folder: Path, there: TraceHeader, here: TraceHeader) -> None:
    """Refuse a trace that differs from another in any field of its header.

    Args:
        folder: of the trace.
        there: what it says of itself.
        here: what it must say.
    Raises: ValueError: they differ.
    """
    refuse_others(*_other_trace(folder, there.all_fields, here.all_fields))


def _other_trace(
    folder: Path, there: Mapping[str, object], here: Mapping[str, object]
) -> tuple[str, Mapping[str, object], Mapping[str, object], str]:
    return f"{folder} holds the trace", there, here, "remove the folder to trace anew"


def _read_header(folder: Path) -> TraceHeader:
    """Raises: ValueError: the trace is absent or incomplete, or its header is damaged."""
    path = folder / TRACE_HEADER
    try:
        return HEADER.validate_json(read_bounded(path, MAX_HEADER))
    except FileNotFoundError:
        raise ValueError(f"no complete trace in {folder}; make one with `latbench trace`") from None
    except ValidationError:
        raise ValueError(f"{path} is no header of a trace that this version reads; trace the run again") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A chunk's file. Raises: ValueError: absent or damaged, on what is read of it too."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            yield file
    except (OSError, SafetensorError, ValidationError, LookupError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read ({reason}); trace the run again") from None


def _part(file: Any, name: str, start: int, end: int) -> NDArray[Any]:
    """Latent steps start to end of a column, in int32 or float32."""
    column, dtype = file.get_slice(name), np.int32 if name == "ids" else np.float32
    if start == end:  # which safetensors refuses at the end of a column
        return np.empty((0, *column.get_shape()[1:]), dtype)
    return np.asarray(column[start:end]).astype(dtype)


def _decoder(folder: Path) -> Callable[[int], str] | None:
    run = folder.parents[1]
    path = run / "checkpoint" / "tokenizer.json"
    if not path.is_file():
        path = run / "tokenizer.json"  # of a run that was exported
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    known: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=False)
        return known[token]

    return decode
