"""Distinct correct chains of each question, sampled from a run that writes its reasoning out.

    <run>/eval/<evaluation>/paths.jsonl    a header, then {"id": ..., "paths": ...} per question with such chains

The chains are those of an ordinary evaluation with several samples, so that sampling resumes as any evaluation does.
Correct means that the answer is: the steps themselves are not checked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.answers.markers import answer_start
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.metrics import by_question
from latbench.evaluation.records import Record, read_evaluation
from latbench.task import STRICT
from latbench.util.files import write_whole

PATHS = "paths.jsonl"
SAMPLING: Mapping[str, Any] = {"generate.samples": 16, "generate.temperature": 1.0}  # unless told otherwise

Chain = tuple[str, ...]  # its steps


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class PathsHeader:
    """Where the chains come from; fields as in the manifest of the evaluation beside them."""

    format_version: Literal[1] = 1
    task: str
    split: str
    run: str
    setting: str
    questions_sha256: str
    samples: Annotated[int, Field(ge=1)]
    git_commit: str | None


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class _Line:
    id: str
    paths: list[Chain]


@dataclass(frozen=True)
class KnownPaths:
    """Chains by question.

    Args:
        source: what they come from, for tables.
    """

    source: str
    by_id: Mapping[str, Sequence[Chain]]


def sample_paths(job: EvalJob) -> tuple[Path, KnownPaths]:
    """Answer every question several times and store the distinct correct chains.

    Returns: the file and what it holds.
    Raises: ValueError: as `evaluate`, or the run writes no chain out.
    """
    folder = evaluate(job)
    found = read_evaluation(folder)
    if not any(map(chain_of, found.records)):
        raise ValueError(f"run {job.run.folder.name} writes no reasoning out; sample paths from a run of `cot`")
    correct = {
        name: distinct(chain_of(record) for record in records if record.status == "correct")
        for name, records in by_question(found.records).items()
    }
    manifest = found.manifest
    header = PathsHeader(
        task=manifest.task,
        split=manifest.split,
        run=manifest.run,
        setting=manifest.setting,
        questions_sha256=manifest.questions_sha256,
        samples=job.settings.generate.samples,
        git_commit=manifest.git_commit,
    )
    known = KnownPaths(_source(header), {name: chains for name, chains in correct.items() if chains})
    lines = [asdict(header), *({"id": name, "paths": chains} for name, chains in known.by_id.items())]
    path = folder / PATHS
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path, known


def read_paths(path: Path, questions_sha256: str) -> KnownPaths:
    """Stored chains.

    Args:
        questions_sha256: of the questions they are wanted for.
    Raises: ValueError: no such file, damaged, or of other questions.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"--paths {path}: {error.strerror}; make the file with `latbench paths`") from None
    header: PathsHeader | None = None
    rows: list[_Line] = []
    try:
        header = _HEADER.validate_json(lines[0] if lines else b"")
        for line in lines[1:]:
            rows.append(_LINE.validate_json(line))
    except ValidationError:
        place = 1 if header is None else len(rows) + 2
        raise ValueError(f"--paths {path}, line {place} is damaged; make the file with `latbench paths`") from None
    if header.questions_sha256 != questions_sha256:
        raise ValueError(
            f"--paths {path} has chains of other questions ({header.task}/{header.split}, run {header.run}); "
            "sample them on the same task, split and limit"
        )
    return KnownPaths(_source(header), {row.id: row.paths for row in rows})


def chain_of(record: Record) -> Chain:
    """The chain that an answer writes out; of a model without think tokens what stands before the answer in its text.

    Args:
        record: of the answer.
    Returns: its steps; none where nothing is written out, or where the chain ends is unknown.
    """
    if record.reasoning or not record.num_reasoning_tokens:
        return steps_of(record.reasoning)
    return steps_of(record.text[: answer_start(record.text)])


def steps_of(reasoning: str) -> Chain:
    """The steps of a written chain, one per line."""
    return tuple(line.strip() for line in reasoning.splitlines() if line.strip())


def distinct(chains: Iterable[Chain]) -> list[Chain]:
    """The first of all chains that are the same but for white space and case; empty ones are none.

    White space is left out altogether: a chain that was written under a layout without a joiner is one single step.
    """
    found: dict[str, Chain] = {}
    for chain in chains:
        found.setdefault("".join("".join(chain).split()).casefold(), chain)
    found.pop("", None)
    return list(found.values())


def chosen(gold: Chain, others: Iterable[Chain], cap: int, key: str) -> list[Chain]:
    """The gold chain and a keyed random choice of the others, `cap` distinct ones at most."""
    first, *rest = distinct([gold, *others]) or [()]
    if len(rest) >= cap:
        kept = sorted(random.Random(key).sample(range(len(rest)), cap - 1))
        rest = [rest[index] for index in kept]
    return [first, *rest] if first else []


def _source(header: PathsHeader) -> str:
    return f"run {header.run}, {header.samples} samples"


_HEADER, _LINE = TypeAdapter(PathsHeader), TypeAdapter(_Line)
