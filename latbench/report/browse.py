"""What the page's record browser shows: questions and a choice of records, as JSON values of bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.evaluation.records import Manifest, Record, read_evaluation
from latbench.measures.measure_files import LatentsFile
from latbench.measures.shown_latents import MAX_STEPS, TOP, choice, rounded
from latbench.report.cells import Row
from latbench.task import Example
from latbench.util.text import cut

if TYPE_CHECKING:
    from latbench.measures.latents import StoredLatents

PAGE_BYTES = 1_200_000  # of all records on the page with their questions
MIN_RUNS = 20  # that share these
MAX_TEXT = 700  # characters of a text on the page
CHUNK = 250  # records in a file beside the page

Json = dict[str, Any]
Asked = Callable[[Manifest], Sequence[Example]]  # the examples of an evaluation; none where they are not at hand


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The records of a run that the page may show, each with its place in the file, and how many there are."""

    records: tuple[tuple[int, Record], ...]
    num_records: int

    @classmethod
    def of(cls, records: Sequence[Record]) -> Choice:
        """At most `shown_latents.MAX_RECORDS`."""
        return cls(records=tuple((place, records[place]) for place in choice(records)), num_records=len(records))


@dataclass(frozen=True, kw_only=True)
class Browsable:
    """One run's part of the page."""

    row: Row
    records: list[Json]
    """The choice."""
    num_records: int
    """How many there are."""
    questions: dict[str, tuple[str, str]]
    """(text, gold steps) by id, of the choice; empty where the data are not at hand."""


def nothing_at_hand(manifest: Manifest) -> Sequence[Example]:
    """Questions of a page that is made without the data of the tasks."""
    return ()


def browsable(rows: Sequence[Row], choices: Mapping[Path, Choice], asked: Asked = nothing_at_hand) -> list[Browsable]:
    """What the page shows of each run, in order.

    Args:
        rows: the runs.
        choices: what may be shown of their records, by the folder of the evaluation.
        asked: the examples of an evaluation.
    """
    budget = PAGE_BYTES // max(MIN_RUNS, len(rows))
    questions = _Questions(asked, MAX_TEXT)
    return [_browsable(row, choices[row.summary.folder], questions.of(row.manifest), budget) for row in rows]


def _browsable(row: Row, chosen: Choice, questions: Mapping[str, tuple[str, str]], budget: int) -> Browsable:
    """One run's records and their questions, until they have more bytes than `budget`."""
    from latbench.measures.latents import stored_latents  # here: it imports numpy, which a table does without

    latents = row.measures.latents or stored_latents(row.summary.folder, row.manifest)
    shown: list[Json] = []
    used: dict[str, tuple[str, str]] = {}
    size = 0
    for place, record in chosen.records:
        made = record_json(record, latents, place, MAX_TEXT)
        text = questions.get(record.id)
        size += _size(made) + (_size(text) if text else 0)
        if shown and size > budget:
            break
        shown.append(made)
        if text:
            used[record.id] = text
    return Browsable(row=row, records=shown, num_records=chosen.num_records, questions=used)


def record_chunks(row: Row, asked: Asked) -> Iterator[Json]:
    """All records of a run with their questions, uncut, `CHUNK` at a time."""
    from latbench.measures.latents import stored_latents

    folder, manifest = row.summary.folder, row.manifest
    records = read_evaluation(folder).records
    texts = _Questions(asked).of(manifest)
    latents = stored_latents(folder, manifest) or row.measures.latents
    for start in range(0, len(records), CHUNK):
        part = list(enumerate(records))[start : start + CHUNK]
        yield {
            "records": [record_json(record, latents, place) for place, record in part],
            "questions": {record.id: texts[record.id] for _, record in part if record.id in texts},
        }


def record_json(
    record: Record, latents: StoredLatents | LatentsFile | None, place: int, max_text: int | None = None
) -> Json:
    """One record as the page's script takes it.

    Args:
        record: the record.
        latents: the latent steps of the evaluation; None where none are stored.
        place: of the record in its file.
        max_text: longer texts are cut; None: none is.
    """
    row: Json = {
        "id": record.id,
        "sample": record.sample,
        "status": record.status,
        "gold": cut(record.gold, max_text),
        "read": None if record.extracted is None else cut(record.extracted, max_text),
        "text": cut(record.text, max_text),
        "reasoning": cut(record.reasoning, max_text),
        "latents": record.num_latents,
        "tokens": "an unknown number of" if record.num_reasoning_tokens is None else record.num_reasoning_tokens,
        "stop": record.stop_reason,
        "fed": record.num_prompt_tokens,
    }
    if latents is None or not record.num_latents:
        return row
    try:
        steps = latents.get(place, TOP)
    except ValueError:
        return row  # damaged: shown without, as where there is no trace
    shown = map(rounded, steps if max_text is None else steps[:MAX_STEPS])
    row["steps"] = [[step.entropy, [list(token) for token in step.tokens]] for step in shown]
    return row


def script_text(value: Any) -> str:
    """JSON that can stand within <script> and be encoded: no "<" closes it or opens a comment."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


_ESCAPED = re.compile("[<\u2028\u2029\ud800-\udfff]")


def _finite(value: Any) -> Any:
    """The value with what JSON has no word for, such as infinity, as text."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return str(value) if isinstance(value, float) and not isfinite(value) else value


class _Questions:
    """Question and gold steps by id, each test set read once; empty where the data are not at hand."""

    def __init__(self, asked: Asked, max_text: int | None = None) -> None:
        self._asked, self._max_text = asked, max_text
        self._known: dict[str, Mapping[str, tuple[str, str]]] = {}

    def of(self, manifest: Manifest) -> Mapping[str, tuple[str, str]]:
        key = manifest.questions_sha256
        if key not in self._known:
            self._known[key] = {
                example.id: (cut(example.question, self._max_text), cut("\n".join(example.steps), self._max_text))
                for example in self._asked(manifest)
            }
        return self._known[key]


def _size(value: Any) -> int:
    return len(script_text(value).encode())
