"""`latents.json`: the latent steps, as text, of the records that a page shows; small enough to be committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from latbench.evaluation.records import Record, read_evaluation, records_path
from latbench.measures.measure_files import LatentsFile, LatentStep, MeasureHeader, write_measure
from latbench.util.text import encodable

if TYPE_CHECKING:
    from latbench.decoding.latent_trace import LatentTrace

MAX_RECORDS = 50  # of a run
MAX_STEPS, TOP = 32, 5  # latent steps of an answer, tokens of a step


def choice(records: Sequence[Record], limit: int = MAX_RECORDS) -> list[int]:
    """Places of at most `limit` records: each verdict in turn, each in file order, until none is left."""
    by_status: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        by_status.setdefault(record.status, []).append(place)
    turns = chain.from_iterable(zip_longest(*by_status.values()))
    return [place for place in turns if place is not None][:limit]


def write_latents(folder: Path, decode: Callable[[int], str]) -> Path | None:
    """Write the traced latent steps of the records that a page shows, as text, beside the records.

    Args:
        folder: of the evaluation.
        decode: token id -> text, for a run without a tokenizer of its own.
    Returns: the file; None where records or trace are not complete.
    Raises: ValueError: the trace is damaged. OSError: it cannot be written.
    """
    from latbench.measures.latents import stored_latents  # here: it imports numpy, which a table does without

    if records_path(folder) is None:
        return None
    evaluation = read_evaluation(folder)
    manifest, latents = evaluation.manifest, stored_latents(folder, evaluation.manifest, decode)
    if latents is None or not manifest.complete or len(evaluation.records) != manifest.n:
        return None
    rows = choice(evaluation.records)
    shown = [map(rounded, latents.get(row, TOP)[:MAX_STEPS]) for row in rows]
    steps = [[(step.entropy, list(step.tokens)) for step in row] for row in shown]
    header = MeasureHeader.of(manifest, seed=manifest.seed)
    return write_measure(folder, LatentsFile(header=header, rows=rows, steps=steps))


def rounded(step: LatentStep) -> LatentStep:
    """A step in the digits that a page shows, its texts fit to be encoded."""
    tokens = tuple((encodable(text), round(weight, 3)) for text, weight in step.tokens)
    return LatentStep(entropy=round(step.entropy, 2), tokens=tokens)


def shown_steps(trace: LatentTrace, decode: Callable[[list[int]], str], top: int = TOP) -> list[LatentStep]:
    """The latent steps of an answer made now, as text.

    Args:
        trace: of the answer.
        decode: ids -> text, special tokens included.
        top: tokens of a step.
    """
    rows = zip(trace.entropy.tolist(), trace.ids[:, :top].tolist(), trace.weights[:, :top].tolist(), strict=True)
    return [
        rounded(LatentStep(entropy=entropy, tokens=tuple((decode([i]), w) for i, w in zip(ids, weights, strict=True))))
        for entropy, ids, weights in rows
    ]
