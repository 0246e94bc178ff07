"""What the page's record browser shows: questions and a choice of records, as JSON values of bounded size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import GenerateConfig, tree
from latbench.data import DATA_DIR, FileTask
from latbench.evaluation.manifest import questions_hash
from latbench.evaluation.metrics import Summary
from latbench.evaluation.plan import EvalConfig, questions
from latbench.evaluation.records import Manifest, Record, read_evaluation, records_path
from latbench.measures.files import LatentsFile, LatentStep, MeasureHeader, Measures, write_measure
from latbench.measures.latents import StoredLatents, stored_latents
from latbench.task import Example

MAX_RECORDS = 50  # per run, on the page itself
PAGE_BYTES = 1_200_000  # of all records on the page with their questions
MIN_RUNS = 20  # that share these
MAX_TEXT = 700  # characters of a text on the page
MAX_STEPS, TOP = 32, 5  # latent steps of an answer, tokens of a step
CHUNK = 250  # records in a file beside the page

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The records of a run that the page may show, each with its place in the file, and how many there are."""

    records: tuple[tuple[int, Record], ...]
    num_records: int

    @classmethod
    def of(cls, records: Sequence[Record]) -> Choice:
        """At most `MAX_RECORDS`."""
        return cls(records=tuple((place, records[place]) for place in choice(records)), num_records=len(records))


@dataclass(frozen=True, kw_only=True)
class Browsable:
    """One run's part of the page.

    Args:
        records: the choice; num_records: how many there are.
        questions: (text, gold steps) by id, of the choice; empty where the data are not at hand.
    """

    summary: Summary
    records: list[Json]
    num_records: int
    questions: dict[str, tuple[str, str]]


def asked(manifest: Manifest) -> list[Example]:
    """The examples of an evaluation as they were asked.

    Raises: ValueError: the manifest does not say what was asked, the task has changed, or its data are not at hand.
    """
    return questions(asked_config(manifest))[1]


def asked_config(manifest: Manifest) -> EvalConfig:
    """What an evaluation asked, without how it was decoded. Raises: ValueError: the manifest does not say."""
    given = manifest.config.get("eval")
    if not isinstance(given, dict) or not isinstance(given.get("task"), dict) or "name" not in given["task"]:
        raise ValueError("its manifest does not say what was asked; evaluate the run again")
    settings = {key: value for key, value in given["task"].items() if key != "name"}
    config, errors = tree.validate("task", registry.get_task_entry(given["task"]["name"]).config, settings)
    if errors:
        raise ValueError(f"its task no longer takes these settings: {errors[0]}")
    limit = given.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"its manifest names an impossible limit ({limit!r}); evaluate the run again")
    return EvalConfig(
        task_name=given["task"]["name"],
        task=config,
        split=manifest.split,
        limit=limit,
        generate=GenerateConfig(),
        seed=manifest.seed,
    )


def browsable(
    summaries: Sequence[Summary], choices: Mapping[Path, Choice], measures: Mapping[Path, Measures] | None = None
) -> list[Browsable]:
    """What the page shows of each run, in order.

    Args:
        choices, measures: by the folder of the evaluation.
    """
    latents = {folder: found.latents for folder, found in (measures or {}).items()}
    budget = PAGE_BYTES // max(MIN_RUNS, len(summaries))
    known = _Questions()
    return [
        _browsable(
            summary, choices[summary.folder], known.of(summary.manifest), latents.get(summary.folder), budget=budget
        )
        for summary in summaries
    ]


def _browsable(
    summary: Summary,
    chosen: Choice,
    questions: Mapping[str, tuple[str, str]],
    measured: LatentsFile | None,
    *,
    budget: int,
) -> Browsable:
    """One run's records and their questions, until they have more bytes than `budget`."""
    latents = measured or stored_latents(summary.folder, summary.manifest)
    shown: list[Json] = []
    used: dict[str, tuple[str, str]] = {}
    size = 0
    for place, record in chosen.records:
        row = record_json(record, latents, place, MAX_TEXT)
        text = questions.get(record.id)
        size += _size(row) + (_size(text) if text else 0)
        if shown and size > budget:
            break
        shown.append(row)
        if text:
            used[record.id] = text
    return Browsable(summary=summary, records=shown, num_records=chosen.num_records, questions=used)


def choice(records: Sequence[Record], limit: int = MAX_RECORDS) -> list[int]:
    """Places of at most `limit` records: each verdict in turn, each in file order, until none is left."""
    by_status: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        by_status.setdefault(record.status, []).append(place)
    turns = chain.from_iterable(zip_longest(*by_status.values()))
    return [place for place in turns if place is not None][:limit]


def record_chunks(summary: Summary, measures: Measures | None = None) -> Iterator[Json]:
    """All records of a run with their questions, uncut, `CHUNK` at a time."""
    records = read_evaluation(summary.folder).records
    texts = _Questions(max_text=None).of(summary.manifest)
    latents = stored_latents(summary.folder, summary.manifest) or (measures.latents if measures else None)
    for start in range(0, len(records), CHUNK):
        part = list(enumerate(records))[start : start + CHUNK]
        yield {
            "records": [record_json(record, latents, place) for place, record in part],
            "questions": {record.id: texts[record.id] for _, record in part if record.id in texts},
        }


def write_latents(folder: Path, decode: Callable[[int], str]) -> Path | None:
    """Write the traced latent steps of the records that the page may show, as text, beside them.

    Args:
        folder: of the evaluation; decode: token id -> text, for a run without a tokenizer of its own.
    Returns: the file; None where records or trace are not complete.
    Raises: ValueError: the trace is damaged. OSError: it cannot be written.
    """
    if records_path(folder) is None:
        return None
    evaluation = read_evaluation(folder)
    manifest, latents = evaluation.manifest, stored_latents(folder, evaluation.manifest, decode)
    if latents is None or not manifest.complete or len(evaluation.records) != manifest.n:
        return None
    rows = choice(evaluation.records)
    shown = [map(_shown, latents.get(row, TOP)[:MAX_STEPS]) for row in rows]
    steps = [[(step.entropy, list(step.tokens)) for step in row] for row in shown]
    return write_measure(
        folder, LatentsFile(header=MeasureHeader.of(manifest, seed=manifest.seed), rows=rows, steps=steps)
    )


def record_json(
    record: Record, latents: StoredLatents | LatentsFile | None, place: int, max_text: int | None = None
) -> Json:
    """One record as the page's script takes it.

    Args:
        place: of the record in its file; max_text: longer texts are cut, None: none is.
    """
    row: Json = {
        "id": record.id,
        "sample": record.sample,
        "status": record.status,
        "gold": _cut(record.gold, max_text),
        "read": None if record.extracted is None else _cut(record.extracted, max_text),
        "text": _cut(record.text, max_text),
        "reasoning": _cut(record.reasoning, max_text),
        "latents": record.num_latents,
        "tokens": "an unknown number of" if record.num_reasoning_tokens is None else record.num_reasoning_tokens,
        "stop": record.stop_reason,
    }
    if latents is None or not record.num_latents:
        return row
    try:
        steps = latents.get(place, TOP)
    except ValueError:
        return row  # damaged: shown without, as where there is no trace
    shown = map(_shown, steps if max_text is None else steps[:MAX_STEPS])
    row["steps"] = [[step.entropy, [list(token) for token in step.tokens]] for step in shown]
    return row


def _shown(step: LatentStep) -> LatentStep:
    """In the digits that the page shows, its texts fit to be encoded."""
    tokens = tuple((_encodable(text), round(weight, 3)) for text, weight in step.tokens)
    return LatentStep(entropy=round(step.entropy, 2), tokens=tokens)


def script_text(value: Any) -> str:
    """JSON that can stand within <script>: no "<" closes it or opens a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class _Questions:
    """Question and gold steps by id, each test set read once; empty where the data are not at hand."""

    def __init__(self, max_text: int | None = MAX_TEXT) -> None:
        self._max_text = max_text
        self._known: dict[str, Mapping[str, tuple[str, str]]] = {}

    def of(self, manifest: Manifest) -> Mapping[str, tuple[str, str]]:
        key = manifest.questions_sha256
        if key not in self._known:
            self._known[key] = self._read(manifest)
        return self._known[key]

    def _read(self, manifest: Manifest) -> dict[str, tuple[str, str]]:
        try:
            entry = registry.get_task_entry(manifest.task)
            if issubclass(entry.cls, FileTask) and not os.environ.get(DATA_DIR):
                return {}  # a table must not download anything
            examples = asked(manifest)
        except ValueError:
            return {}
        if questions_hash(examples) != manifest.questions_sha256:  # other data than were asked
            return {}
        return {
            row.id: (_cut(row.question, self._max_text), _cut("\n".join(row.steps), self._max_text)) for row in examples
        }


def _cut(text: str, limit: int | None) -> str:
    whole = _encodable(text)
    return (
        whole if limit is None or len(whole) <= limit else f"{whole[:limit]} … ({len(whole) - limit} more characters)"
    )


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _size(value: Any) -> int:
    return len(script_text(value).encode())
