"""Record and manifest schema; append and read of records.

Every table is a pure function of these. A record holds nothing that depends on the machine or the clock, so that a
resumed run equals an undisturbed one byte for byte; time, memory and hardware stand in the manifest.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic_core import from_json

from latbench.config.identity import is_untrained
from latbench.task import Fingerprint, Status, StopReason
from latbench.util.files import read_bounded, write_whole

RECORDS = "records.jsonl"
MANIFEST = "manifest.json"
TRACE, TRACE_HEADER = "trace", "trace.json"  # folder beside the records, and the file in it that says it is complete
SHARDS = "shards"  # folder of the parts of what is made by several processes, see shards.py
SCHEMA_VERSION = 1
# Bounds of what somebody else may have written: far beyond what an evaluation writes, within what a machine can hold
MAX_MANIFEST = 1_000_000  # bytes
MAX_DEPTH = 32  # of nesting in a manifest
MAX_NAME = 20_000  # characters of a name that tables show
MAX_PROMPT = 100_000  # characters of a manifest's prompt
MAX_LINE = 4_000_000  # bytes of a record
MAX_UNPACKED = 1 << 30  # bytes of a gzipped file of records
MAX_BAD_LINES = 1000
MAX_COUNT = 1 << 31  # of tokens, steps, answers
MAX_COST = 1e300
EXACT = ("float32", "float64")  # weights with which the batch size changes no answer but by near-ties

# JSON leaves these as they are: three are line ends to some readers (str.splitlines), a lone surrogate has no UTF-8
_ESCAPED = re.compile("[\u0085\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One generated answer and its verdict; one JSON line.

    Args:
        id: which example.
        sample: which of its samples, from 0.
        text: the answer segment, after the close marker; "" where it was never reached.
        reasoning: the explicit reasoning text, without markers ("" for latent steps).
        extracted: the final answer read from `text`; None where there is none.
        gold: the reference answer.
        num_latents: latent steps; with the reasoning tokens the chain length #L, without markers, answer and EOS.
        num_reasoning_tokens: explicit tokens of the chain. Of a model without think tokens the chain stands in `text`,
            and their number may be unknown: None.
        num_answer_tokens: answer tokens without EOS.
        gold_chain_length: tokens of the gold reasoning under the run's tokenizer (0: the data have none).
        num_prompt_tokens: tokens of the prompt.
        decode_steps: forward passes of this row after its prompt, forced markers included.
        stop_reason: eos, stop (a stop string), length (a cap), prompt_too_long.
        seed: seed of the evaluation.
        chunk: number of the fixed chunk of questions it belongs to.
    """

    id: str
    sample: int
    text: str
    reasoning: str
    extracted: str | None
    gold: str
    status: Status
    num_latents: int
    num_reasoning_tokens: int | None
    num_answer_tokens: int
    gold_chain_length: int
    num_prompt_tokens: int
    decode_steps: int
    stop_reason: StopReason
    seed: int
    chunk: int

    @property
    def chain_length(self) -> int | None:
        """#L: latent steps plus explicit reasoning tokens; None where their number is unknown."""
        return None if self.num_reasoning_tokens is None else self.num_latents + self.num_reasoning_tokens


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about an evaluation that is not an answer: enough to repeat it, place it in a table, and cost it.

    Args:
        task .. train_data: the identity of the cell in a table: `variant` is a short text of the non-default keys,
            `setting` the hash of the configuration without its seed.
        run: name of the run's folder.
        n: number of records of a complete evaluation (examples x samples).
        complete: all records are there.
        config: the whole configuration tree.
        questions_sha256: of the ids, prompts and golds asked: equal means that two runs can be compared.
        data: fingerprints by "<task>/<split>".
        versions: package versions.
        git_commit: of latbench's checkout; None outside one.
        git_dirty: whether that checkout had changes; None outside one.
        hardware: CPU, GPU, cores, memory, as text.
        train: costs of training: examples seen, tokens, optimiser steps, flops, seconds, peak_memory_bytes.
        diagnostics: figures the method reported about its own training, by name.
        evaluation: costs of this evaluation: seconds (sum over sessions), answers, peak_memory_bytes.
        contaminated: training rows, those of the run it starts from included, that ask one of these questions; None
            where the run does not know its training questions.
        model: SHA-256 by name of the files of the model that answered, of a run without training; None elsewhere.
        dtype: of the weights that answered, where the configuration leaves it to the model's files; None elsewhere.
        prompt: what stands `before` and `after` each question in what the model read, special tokens included; or,
            where that is not the same for all, the prompt of the `first` question. None where it is not known.
        code: SHA-256 by name of the user's own Python files that hold the method and the task (`registry.own_code`);
            None where none does.
    """

    schema_version: int = SCHEMA_VERSION
    task: str
    split: str
    method: str
    variant: str
    setting: str
    backbone: str
    layout: str
    train_data: str
    run: str
    seed: int
    n: int
    complete: bool
    command: str
    config: dict[str, Any]
    questions_sha256: str
    data: dict[str, Fingerprint]
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    hardware: dict[str, Any]
    train: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    created: str = ""  # ISO 8601, UTC
    contaminated: int | None = None
    dtype: str | None = None
    model: dict[str, str] | None = None
    prompt: dict[str, str] | None = None
    code: dict[str, str] | None = None

    @property
    def is_rounded(self) -> bool:
        """Whether the weights that answered are of less than 32 bits; a manifest that does not say counts as such.

        Sums of rounded numbers depend on their order, and their order on the batch: another batch size can change
        answers, so that it belongs to what a repetition must have in common.
        """
        return (self.dtype or self.configured("model", "dtype")) not in EXACT

    @property
    def is_untrained(self) -> bool:
        """Whether a model answered as it comes."""
        return is_untrained(self.train_data)

    def configured(self, *keys: str) -> object:
        """A value of the configuration, of which a manifest from elsewhere may be of any shape; None: there is none."""
        found: object = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The records of one evaluation with its manifest, as read from a folder.

    Args:
        num_bad_lines: that are no records.
        num_lost: records of a complete evaluation that are missing for them.
    """

    folder: Path
    manifest: Manifest
    records: list[Record]
    num_bad_lines: int = 0
    num_lost: int = 0


def record_line(record: Record) -> str:
    """One JSON line, without the newline; a fixed key order makes it byte-stable, any Python text can be encoded."""
    return _dumps({name: getattr(record, name) for name in Record.__slots__})


def parse_record(line: str) -> Record:
    """The record of a JSON line.

    Raises: ValueError: not JSON, or fields missing, unknown, of the wrong kind or out of range.
    """
    try:
        record = _from_row(Record, _decode(line))
    except RecursionError:  # thousands of nested brackets
        raise ValueError("not a record: nested too deeply") from None
    if record.status not in _STATUSES or record.stop_reason not in _STOP_REASONS:
        raise ValueError("not a record: unknown status or stop_reason")
    counts = (*_counts(record), record.num_reasoning_tokens or 0)
    if min(counts) < 0 or max(counts) > MAX_COUNT:
        raise ValueError("not a record: a count is negative or too large")
    if not is_encodable(record.id):
        raise ValueError("not a record: its id is no text that can be encoded")
    return record


def _decode(line: str) -> object:
    """The value of a JSON text; the fast decoder refuses some that the other takes, such as a lone surrogate."""
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line)


def is_encodable(text: str) -> bool:
    """Whether a text has no lone surrogate, which no file and no page could hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append a chunk's records in one write and flush them to disk."""
    data = "".join(record_line(record) + "\n" for record in records).encode()
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path, max_unpacked: int = MAX_UNPACKED) -> tuple[list[Record], int]:
    """Records of a .jsonl or .jsonl.gz file, and the number of lines that could not be read.

    A line is unreadable when it is cut, not UTF-8, not JSON or not a record; a compressed file that ends early or is
    damaged counts as one such line, and what comes before it is used.

    Args:
        path: of the file.
        max_unpacked: most bytes that a gzipped file may hold.
    Raises: ValueError: the file is beyond this or another bound. OSError: it cannot be read.
    """
    records: list[Record] = []
    num_bad = 0
    for line in _lines(path, max_unpacked):
        try:
            records.append(parse_record(line.decode()))
        except ValueError:
            num_bad += 1
        if num_bad > MAX_BAD_LINES:
            raise ValueError(f"{path}: more than {MAX_BAD_LINES} lines are no records; evaluate again")
    return records, num_bad


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest beside and rename it into place."""
    row = asdict(manifest)
    younger = [name for name in ("contaminated", "dtype", "model", "prompt") if row[name] is None]
    write_whole(folder / MANIFEST, _dumps({k: v for k, v in row.items() if k not in younger}, indent=1) + "\n")


def evaluations_in(folder: Path) -> list[Path]:
    """Folders directly within one that have a manifest, complete or not, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises: ValueError: no manifest, one of a newer schema, or not one of ours.
    """
    path = folder / MANIFEST
    try:
        row = json.loads(read_bounded(path, MAX_MANIFEST).decode())
        _refuse_depth(row)
        if isinstance(row, dict) and isinstance(version := row.get("schema_version"), int) and version > SCHEMA_VERSION:
            raise ValueError(f"its schema_version {version} is newer than {SCHEMA_VERSION}, update latbench")
        manifest = _from_row(Manifest, row)
        costs = [*manifest.train.items(), *manifest.evaluation.items(), *manifest.diagnostics.items()]
        if wrong := [name for name, cost in costs if type(cost) not in (int, float)]:
            raise ValueError(f"{wrong[0]} is not a number")
        if wrong := [name for name, cost in costs if not abs(cost) <= MAX_COST]:
            raise ValueError(f"{wrong[0]} is not finite")
        if wrong := [name for name, value in (manifest.model or {}).items() if not isinstance(value, str)]:
            raise ValueError(f"the hash of {wrong[0][:80]} is no text")
        if manifest.prompt is not None:
            _refuse_prompt(manifest.prompt)
        names = {name: getattr(manifest, name) for name in _SHOWN} | {name: name for name in manifest.diagnostics}
        if wrong := [name for name, text in names.items() if len(text) > MAX_NAME]:
            raise ValueError(f"{wrong[0][:80]} is longer than {MAX_NAME} characters")
        if not max(abs(manifest.n), abs(manifest.seed)) <= MAX_COUNT * 2:
            raise ValueError("n or seed is out of range")
        data: Mapping[str, Any] = manifest.data
        return replace(manifest, data={name: _from_row(Fingerprint, value) for name, value in data.items()})
    except FileNotFoundError:
        raise ValueError(f"no {MANIFEST} in {folder}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a latbench manifest: {error}") from None


def read_evaluation(folder: Path, max_unpacked: int = MAX_UNPACKED) -> Evaluation:
    """Manifest and records of one evaluation folder (records plain or gzipped).

    Args:
        folder: of the evaluation.
        max_unpacked: most bytes that gzipped records may hold.
    Raises: ValueError: manifest or records are missing, cannot be read, or are beyond a bound.
    """
    manifest = read_manifest(folder)
    path = records_path(folder)
    if path is None:
        raise ValueError(f"no {RECORDS} in {folder}")
    records, num_bad = read_records(path, max_unpacked)
    return Evaluation(folder=folder, manifest=manifest, records=records, num_bad_lines=num_bad)


def records_path(folder: Path) -> Path | None:
    """The records file of a folder, plain before gzipped; None where there is neither."""
    candidates = [folder / RECORDS, folder / (RECORDS + ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _lines(path: Path, max_unpacked: int) -> Iterator[bytes]:
    """Lines of a plain or gzipped file; an empty, hence unreadable, one stands for the lost rest of a damaged gzip."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            yield from _bounded_lines(file, path, path.stat().st_size)
        return
    try:
        with gzip.open(path, "rb") as packed:
            yield from _bounded_lines(packed, path, max_unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield b""


def _bounded_lines(file: IO[bytes] | gzip.GzipFile, path: Path, most: int) -> Iterator[bytes]:
    """Lines, one in memory at a time. Raises: ValueError: a line, or all together, are longer than they may be."""
    left = most
    while line := file.readline(MAX_LINE + 1):
        left -= len(line)
        if len(line) > MAX_LINE or left < 0:
            what = f"a line is longer than {MAX_LINE} bytes" if left >= 0 else f"it holds more than {most} bytes"
            raise ValueError(f"{path} is too large: {what}")
        yield line


def _refuse_prompt(prompt: Mapping[str, object]) -> None:
    """Raises: ValueError: no prompt as `Manifest.prompt` says, or a longer one than a manifest takes."""
    are_texts = all(isinstance(text, str) for text in prompt.values())
    if set(prompt) not in ({"before", "after"}, {"first"}) or not are_texts:
        raise ValueError("prompt must hold the texts before and after, or first alone")
    if sum(len(str(text)) for text in prompt.values()) > MAX_PROMPT:
        raise ValueError(f"prompt is longer than {MAX_PROMPT} characters")


def _refuse_depth(row: object) -> None:
    """Raises: ValueError: nested deeper than a manifest may be."""
    level: list[object] = [row]
    for _ in range(MAX_DEPTH):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _dumps(row: Mapping[str, Any], indent: int | None = None) -> str:
    text = json.dumps(row, ensure_ascii=False, indent=indent)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


T = TypeVar("T", Record, Manifest, Fingerprint)


def _from_row(cls: type[T], row: Any) -> T:
    """A dataclass from a JSON object, whose fields must be those of the class and of their kinds.

    Raises: ValueError: they are not.
    """
    if isinstance(row, dict) and (cls, tuple(row), tuple(map(type, row.values()))) in _ACCEPTED:
        return cls(**row)
    kinds, required = _SCHEMAS[cls]
    if not isinstance(row, dict) or not required <= row.keys() <= kinds.keys():
        raise ValueError(f"fields differ from those of a {cls.__name__.lower()}")
    for name, value in row.items():
        if type(value) not in kinds[name]:
            raise ValueError(f"{name} is of the wrong kind")
    if len(_ACCEPTED) < _MOST_ACCEPTED:
        _ACCEPTED.add((cls, tuple(row), tuple(map(type, row.values()))))
    return cls(**row)


def _schema(cls: type) -> tuple[Mapping[str, tuple[type, ...]], frozenset[str]]:
    """Allowed types by field name, and the names of fields without default."""
    hints = get_type_hints(cls)
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: _kinds(hints[f.name]) for f in fields(cls)}, frozenset(required)


def _kinds(hint: Any) -> tuple[type, ...]:
    """Types a JSON value of this annotation may have; exact, so that true is not an integer."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    if origin is Literal:
        return (str,)
    return (int, float) if hint is float else (origin or hint,)


_SCHEMAS: Mapping[type, tuple[Mapping[str, tuple[type, ...]], frozenset[str]]] = {
    cls: _schema(cls) for cls in (Record, Manifest, Fingerprint)
}
_SHOWN = ("task", "split", "method", "variant", "setting", "backbone", "layout", "train_data", "run")
# names and kinds of rows that were found to fit: nearly all lines of a file are alike
_ACCEPTED: set[tuple[type, tuple[str, ...], tuple[type, ...]]] = set()
_MOST_ACCEPTED = 1000
_STATUSES = frozenset(get_args(Status))
_STOP_REASONS = frozenset(get_args(StopReason))
_WHOLE = tuple(name for name, kinds in _SCHEMAS[Record][0].items() if kinds == (int,) and name != "seed")
_counts = attrgetter(*_WHOLE)
COUNTS = tuple(name for name in _WHOLE if name not in ("sample", "chunk"))  # fields of a record of which means are made
