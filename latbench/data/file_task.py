"""Real data sets: where a task's splits are found, how rows become examples, and how answers are scored.

A split is looked for in the folder that `LATBENCH_DATA_DIR` names, then in the Hugging Face cache, then on the Hub.
A row is {id, question, steps, answer, ...}; further fields go to `Example.meta`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import score_answers
from latbench.data.hub import HubSource, RowMapping, hub_rows
from latbench.data.rows import examples_of, file_rows, mapped, rows_hash
from latbench.registry import unknown
from latbench.task import ConfigT, Example, Fingerprint, Score, Task
from latbench.util.data_dir import DATA_DIR

SHORT_HASH = 12  # characters of a file's sha256 that name a second file in a fingerprint


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one split comes from.

    Args:
        file: its name in the data folder; `.jsonl` (a row a line), `.json` (a list of rows) or `.txt` (a line is the
            row {"text": line}); with or without a further `.gz`, whichever is there.
        num_rows: as published; another number is refused. None: not known.
        row: (raw row of the file, its 0-based index) -> row; None where the file already holds rows.
        hub: the same split on the Hub, or None where it has none.
        check_gold: every answer must be a possible gold of the task's kind.
    """

    file: str
    num_rows: int | None = None
    row: RowMapping | None = None
    hub: HubSource | None = None
    check_gold: bool = True


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split as read: examples in source order and what identifies them."""

    examples: list[Example]
    fingerprint: Fingerprint


class FileTask(Task[ConfigT]):
    """A task whose splits are files or Hub data sets; a subclass declares `kind` and `sources`."""

    kind: ClassVar[AnswerKind]
    sources: ClassVar[Mapping[str, Source]]
    labels: ClassVar[tuple[str, ...]] = ()
    """The only answers there are, single words such as Yes and No; a sentence answers with the one that it names."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.splits = tuple(getattr(cls, "sources", ()))

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self._splits: dict[str, Split] = {}

    def load(self, split: str) -> list[Example]:
        """All examples of a split, in source order, after the task's own filter."""
        return list(self._split(split).examples)

    def fingerprint(self, split: str) -> Fingerprint:
        """File or Hub origin with the filter applied, hash of the source, number of examples kept."""
        return self._split(split).fingerprint

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Verdicts by the task's kind of answer, or by the paper scorer that the configuration names."""
        answers = [(text, example.answer) for text, example in pairs]
        return score_answers(answers, self.kind, self.config.scorer, self.config.run_on, self.labels)

    def is_at_hand(self, split: str) -> bool:
        """Whether the split's file lies in the data folder."""
        return split in self.sources and _in_data_folder(self.source(split)) is not None

    def source(self, split: str) -> Source:
        """Where a split comes from; a task whose settings choose among files overrides it."""
        return self.sources[split]

    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        """The examples kept, and a note for the fingerprint on what was left out ("": nothing)."""
        return examples, ""

    def _split(self, split: str) -> Split:
        if split not in self.sources:
            raise unknown(f"{self.name} split", split, self.splits)
        if split not in self._splits:
            read = read_split(self.source(split), self.kind, f"task {self.name!r}, split {split!r}")
            examples, note = self.select(split, read.examples)
            fingerprint = Fingerprint(
                source=f"{read.fingerprint.source} {note}".rstrip(),
                sha256=read.fingerprint.sha256,
                num_examples=len(examples),
            )
            self._splits[split] = Split(examples=examples, fingerprint=fingerprint)
        return self._splits[split]


def read_split(source: Source, kind: AnswerKind, what: str) -> Split:
    """Examples of a source from the first place that has it.

    Args:
        what: names the task and split in errors.

    Raises: ValueError: the data are nowhere, a row is malformed (with file, line and field), or their number is not
        the published one.
    """
    raw = _local(source) or _hub(source, what)
    rows, num_read = mapped(raw.rows, raw.mapping)
    if source.num_rows not in (None, num_read):
        raise ValueError(f"{raw.place} holds {num_read} rows, but {what} has {source.num_rows}; fetch it again")
    examples = examples_of(rows, kind if source.check_gold else None)
    fingerprint = Fingerprint(source=raw.name, sha256=raw.sha256 or rows_hash(rows), num_examples=len(examples))
    return Split(examples=examples, fingerprint=fingerprint)


def short_name(fingerprint: Fingerprint) -> str:
    """File name with the start of its hash, to name a second file in a fingerprint's note."""
    return f"{fingerprint.source}@{fingerprint.sha256[:SHORT_HASH]}"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """Raw rows with their places, how they become rows, and their origin as named in fingerprints and in errors."""

    rows: Iterable[tuple[str, Any]]
    mapping: RowMapping | None
    name: str
    place: str
    sha256: str | None


def _in_data_folder(source: Source) -> Path | None:
    """The file of a source, packed or not; None where it is absent."""
    folder = os.environ.get(DATA_DIR)
    if not folder:
        return None
    other = source.file.removesuffix(".gz") if source.file.endswith(".gz") else f"{source.file}.gz"
    places = (Path(folder).expanduser() / name for name in (source.file, other))
    return next((path for path in places if path.is_file()), None)


def _local(source: Source) -> _Raw | None:
    path = _in_data_folder(source)
    if path is None:
        return None
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    sha256 = hashlib.sha256(packed).hexdigest()
    return _Raw(rows=file_rows(path, packed), mapping=source.row, name=path.name, place=str(path), sha256=sha256)


def _hub(source: Source, what: str) -> _Raw:
    if source.hub is None:
        raise _no_data(source, what, "the Hub has no copy")
    try:
        found = hub_rows(source.hub)
    except LookupError as error:
        raise _no_data(source, what, str(error)) from error
    rows = ((f"{found.origin}, row {number}", row) for number, row in enumerate(found.rows, 1))
    return _Raw(rows=rows, mapping=source.hub.row, name=found.origin, place=found.origin, sha256=None)


def _no_data(source: Source, what: str, reason: str) -> ValueError:
    folder = os.environ.get(DATA_DIR)
    looked = f"{DATA_DIR}={folder} holds no {source.file}" if folder else f"{DATA_DIR} is not set"
    way_out = f"set {DATA_DIR} (or --data-dir) to a folder that holds {source.file}"
    return ValueError(f"no data for {what}: {looked} and {reason}; {way_out}")
